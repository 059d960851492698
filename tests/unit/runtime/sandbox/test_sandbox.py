"""States of a sandbox, reports of its helper, and what a failed preparation gives back. Without a kernel's help."""

import asyncio
import json
import os
from typing import Any

import pytest

from runtime import packets
from runtime.errors import StartError
from runtime.model import Limits
from runtime.packets import PacketSocket
from runtime.sandbox import sandbox as module
from runtime.sandbox.cgroup import JoinDescriptors
from runtime.sandbox.sandbox import _TRANSITIONS, Sandbox, State


class FakeCgroup:
    def __init__(self) -> None:
        self.log: list[Any] = []

    def set_limits(self, limits: Limits) -> None:
        self.log.append(limits)

    def allow_entry(self, uid: int) -> None:
        self.log.append(uid)

    def join_descriptors(self) -> JoinDescriptors:
        return JoinDescriptors(-1, ())

    def freeze(self, *, frozen: bool) -> None:
        self.log.append(("freeze", frozen))

    def kill(self) -> None:
        self.log.append("kill")

    def close(self) -> None:
        self.log.append("close")

    def try_remove(self) -> bool:
        self.log.append("remove")
        return True


def files(count: int) -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(count)]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def sandbox():
    made = Sandbox("z.1", zygote="z", uid=1000, environment=None, cgroup=FakeCgroup(), namespaces=files(6))
    yield made
    made.release()


def test_the_table_has_every_state_and_ends_at_gone():
    assert set(_TRANSITIONS) == set(State)
    assert _TRANSITIONS[State.GONE] == set()
    reachable, waiting = set(), [State.EMPTY]
    while waiting:
        state = waiting.pop()
        if state not in reachable:
            reachable.add(state)
            waiting += _TRANSITIONS[state]
    assert reachable == set(State)


@pytest.mark.parametrize("start", list(State))
def test_transitions_that_the_table_lacks_are_a_programmers_error(sandbox: Sandbox, start: State):
    for target in State:
        sandbox.state = start
        if target in _TRANSITIONS[start]:
            sandbox.become(target)
            assert sandbox.state is target
        else:
            with pytest.raises(AssertionError):
                sandbox.become(target)


def test_a_kill_keeps_its_first_reason_and_happens_once(sandbox: Sandbox):
    sandbox.kill("too early")
    assert sandbox.state is State.EMPTY and sandbox.cgroup.log == []
    sandbox.become(State.SPAWNING)
    sandbox.kill("first")
    sandbox.kill("second")
    assert (sandbox.reason, sandbox.state, sandbox.cgroup.log) == ("first", State.DYING, ["kill"])


def test_release_closes_everything_once():
    fds = files(6)
    made = Sandbox("z.1", zygote="z", uid=1000, environment=None, cgroup=FakeCgroup(), namespaces=fds)
    made.release()
    made.release()
    assert not any(is_open(fd) for fd in fds)


def test_it_was_ready_once_it_was_parked_or_assigned(sandbox: Sandbox):
    sandbox.become(State.SPAWNING)
    assert not sandbox.was_ready
    sandbox.become(State.PARKED)
    sandbox.become(State.DYING)
    assert sandbox.was_ready


PARKED = json.dumps({"kind": "parked", "ns": {"fork": 1_500_000, "isolate": 500_000}}).encode()
REPORTS = [
    (b"", "fork", "ended before"),
    (b'{"kind":"failed","step":"setns net","errno":22}', "setns net", "Invalid argument"),
    (b"{", "fork", "malformed"),
    (b"[]", "fork", "malformed"),
    (b"[" * 100_000, "fork", "malformed"),
    (b"\xff", "fork", "malformed"),
    (b'{"kind":"failed"}', "fork", "malformed"),
    (b'{"kind":"failed","step":"x","errno":"y"}', "fork", "malformed"),
    (b'{"kind":"parked","ns":{"fork":"x"}}', "fork", "malformed"),
    (b'{"kind":"parked","ns":1}', "fork", "malformed"),
    (b'{"kind":"parked"}', "fork", "malformed"),
]


@pytest.mark.parametrize(("report", "phase", "words"), REPORTS)
def test_a_report_that_is_no_success_is_a_start_error(report: bytes, phase: str, words: str):
    with pytest.raises(StartError, match=words) as caught:
        module._phases_ms(report)
    assert caught.value.phase == phase


def test_a_report_gives_the_phases_in_ms():
    assert module._phases_ms(PARKED) == {"fork": 1.5, "isolate": 0.5}


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (PARKED, ""),
        (REPORTS[1][0], "setns net: Invalid argument"),
        (b"", "fork: the helper ended before it was isolated"),
    ],
)
def test_why_a_helper_that_has_ended_was_never_isolated(sandbox: Sandbox, report: bytes, said: str):
    async def scenario() -> None:
        ours, theirs = packets.packet_pair()
        sandbox._control = PacketSocket(ours)
        sandbox._control.send(b"an assignment that nobody reads")
        with theirs:
            if report:
                theirs.send(report)
        assert sandbox.start_failure() == said
        assert sandbox.start_failure() == said, "it is left in place"
        sandbox._control.close()

    asyncio.run(scenario())


class FakeNamespace:
    """Answers requests with descriptors, or with a failure."""

    first_uid = 70_000

    def __init__(self, *answers: list[int] | StartError) -> None:
        self.answers = list(answers)

    def proc_attachment(self) -> module.Attachment:
        return module.Attachment(files(1)[0], "proc", "proc")

    def request_network(self) -> None:
        return None

    def request_mounts(self, tree: object) -> None:
        return None

    async def take_made(self) -> list[int]:
        answer = self.answers.pop(0)
        if isinstance(answer, StartError):
            raise answer
        return answer


def prepared(namespace: FakeNamespace, cgroup: FakeCgroup, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(module.mounts, "tmpfs", lambda size, executable=True: files(1)[0])
    return asyncio.run(
        module.prepare("z.1", zygote="z", uid=1000, environment=None, cgroup=cgroup, user_namespace=namespace, tree=[])
    )


def test_preparing_sets_limits_before_anything_runs(monkeypatch: pytest.MonkeyPatch):
    cgroup = FakeCgroup()
    made = prepared(FakeNamespace(files(1), files(5)), cgroup, monkeypatch)
    assert made.state is State.EMPTY
    assert cgroup.log == [Limits(), 70_000]
    made.release()


@pytest.mark.parametrize("first_fails", [True, False])
def test_a_failed_preparation_takes_both_answers_and_gives_all_back(first_fails: bool, monkeypatch: pytest.MonkeyPatch):
    fds, error = files(1 if not first_fails else 5), StartError("net", "no more")
    namespace = FakeNamespace(error, fds) if first_fails else FakeNamespace(fds, error)
    cgroup = FakeCgroup()
    with pytest.raises(StartError, match="no more"):
        prepared(namespace, cgroup, monkeypatch)
    assert namespace.answers == [], "the next sandbox must not get what was meant for this one"
    assert not any(is_open(fd) for fd in fds)
    assert cgroup.log[-2:] == ["close", "remove"]


def test_a_cancelled_preparation_gives_back_what_it_has(monkeypatch: pytest.MonkeyPatch):
    fds, cgroup = files(1), FakeCgroup()
    monkeypatch.setattr(FakeNamespace, "take_made", _first_then_cancelled)
    with pytest.raises(asyncio.CancelledError):
        prepared(FakeNamespace(fds), cgroup, monkeypatch)
    assert not any(is_open(fd) for fd in fds)
    assert cgroup.log[-2:] == ["close", "remove"]


async def _first_then_cancelled(self: FakeNamespace) -> list[int]:
    if not self.answers:
        raise asyncio.CancelledError
    answer = self.answers.pop(0)
    assert isinstance(answer, list)
    return answer
