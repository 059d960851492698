"""Failures in the words of the table: what a worker says, and how its process ended."""

import json

import pytest

from gateway.api.problems import TABLE
from gateway.invocation import failure_of_answer, failure_of_death
from runtime.fork.worker import Failure
from runtime.frames import ErrorKind
from runtime.protocol import SandboxDied

KINDS = [value for name, value in vars(ErrorKind).items() if name.isupper()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_worker_really_sends_is_understood(kind: str):
    payload = json.dumps(Failure(kind, "KeyError", "'x'", ["Traceback ...", "KeyError: 'x'"]).payload).encode()
    found, failure = failure_of_answer(payload)
    assert found == kind and failure.word in TABLE and failure.word != "function-crashed"
    assert failure.error is not None
    assert (failure.error.type, failure.error.traceback) == ("KeyError", "Traceback ...\nKeyError: 'x'")


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"kind": 1}', b'{"kind":"exit","traceback":[1]}', b"[" * 99_999]
)
def test_what_cannot_be_decoded_is_a_crash(payload: bytes):
    kind, failure = failure_of_answer(payload)
    assert (kind, failure.word) == ("", "function-crashed")


@pytest.mark.parametrize(
    ("died", "word"),
    [
        (None, "function-crashed"),
        (SandboxDied(sandbox="s", error="setns net: no"), "start-failed"),
        (SandboxDied(sandbox="s", signal=9, out_of_memory=True), "function-out-of-memory"),
        (SandboxDied(sandbox="s", signal=11), "function-crashed"),
        (SandboxDied(sandbox="s", signal=64), "function-crashed"),
        (SandboxDied(sandbox="s", exit_status=3), "function-exited"),
        (SandboxDied(sandbox="s"), "function-exited"),
    ],
)
def test_every_end_of_a_process_has_a_word(died: SandboxDied | None, word: str):
    assert failure_of_death(died).word == word
