"""The tree of errors is the one its docstring draws."""

import pickle
import re

import pytest

from rootfs_builder.wheels import Refused
from runtime import errors
from runtime.errors import BuildError, PagurusError, PoolExhaustedError, SandboxDiedError, StartError


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"^(.*?)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert {name for _, name in drawn} == set(classes)
    parents: list[str] = []
    for indent, name in drawn:
        depth = len(indent) // 3
        del parents[depth:]
        if parents:
            assert classes[name].__base__ is classes[parents[-1]], name
        parents.append(name)


def test_a_hint_is_shown_behind_the_message():
    assert str(PagurusError("cannot mount")) == "cannot mount"
    assert str(PagurusError("cannot mount", hint="evict")) == "cannot mount (evict)"


def test_each_error_keeps_what_it_knows():
    assert BuildError("archive", "bad", hint="mend").kind == "archive"
    assert StartError("fork", "no").phase == "fork"
    assert SandboxDiedError("gone", signal=9).signal == 9
    assert PoolExhaustedError("full", retry_after_s=2.5).retry_after_s == 2.5


@pytest.mark.parametrize(
    "error",
    [
        PagurusError("cannot mount", hint="evict"),
        BuildError("archive", "bad", hint="mend"),
        StartError("fork", "no"),
        SandboxDiedError("gone", signal=9),
        PoolExhaustedError("full", retry_after_s=2.5, hint="wait"),
        Refused("a-1-py3-none-any.whl", "is bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_out_of_another_process(error: PagurusError):
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is type(error)
    assert (str(came), came.args, vars(came)) == (str(error), error.args, vars(error))
