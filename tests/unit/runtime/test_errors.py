"""The tree of errors is the one its docstring draws."""

import re

from runtime import errors
from runtime.errors import BuildError, PagurusError, PoolExhaustedError, SandboxDiedError, StartError


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"^(.*?)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
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
