"""What a zygote's process looks like from outside, and what of it is a fault."""

import asyncio
import dataclasses
import os
import signal
import threading
from pathlib import Path

import pytest

from runtime import conduct
from runtime.conduct import Conduct, Watch
from runtime.model import MIB

BEFORE = Conduct(
    threads=1,
    blocked=0,
    ignored=0x1001000,
    caught=0x2,
    umask="0022",
    own_bytes=8 * MIB,
    descriptors={0: "/dev/null", 1: "/dev/null", 2: "/dev/null", 3: "socket:[7]"},
    processes=frozenset((10, 11, 12)),
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"threads": 2}, ["started 1 thread"]),
        ({"threads": 4}, ["started 3 threads"]),
        ({"processes": frozenset((10, 11, 12, 13))}, ["left 1 process"]),
        ({"processes": frozenset((10, 11, 12, 13, 14))}, ["left 2 processes"]),
        ({"processes": frozenset((10, 12))}, []),
        ({"caught": 0x2 | 1 << 14}, ["changed what happens at SIGTERM"]),
        ({"caught": 0}, ["changed what happens at SIGINT"]),
        ({"ignored": 0x1001000 | 1 << 16}, ["changed what happens at SIGCHLD"]),
        ({"blocked": 1 << 9}, ["blocked SIGUSR1"]),
        ({"caught": 0x2 | 1 << 39}, ["changed what happens at signal 40"]),
        ({"umask": "0077"}, ["set the umask to 0077"]),
        ({"own_bytes": 80 * MIB}, ["took 80 MiB of zygote_memory_bytes, 100 MiB, and a fork needs a quarter"]),
        ({"descriptors": {**BEFORE.descriptors, 4: "/tmp/x"}}, ["left open /tmp/x"]),
        ({"descriptors": {**BEFORE.descriptors, 3: "socket:[8]"}}, ["closed or replaced descriptor 3"]),
        ({"descriptors": {0: "/dev/null"}}, ["closed or replaced descriptor 1, 2, 3"]),
    ],
)
def test_what_has_changed_is_told_in_words(change: dict[str, object], words: list[str]):
    assert dataclasses.replace(BEFORE, **change).faults(BEFORE, 100 * MIB) == words


def test_of_many_descriptors_some_are_named():
    now = dataclasses.replace(BEFORE, descriptors={**BEFORE.descriptors, **{fd: f"/tmp/{fd}" for fd in range(4, 20)}})
    (fault,) = now.faults(BEFORE, 100 * MIB)
    assert fault.startswith("left open /tmp/4, /tmp/5") and fault.endswith("and 11 more")


def test_the_kernel_is_asked():
    before = Conduct.look(os.getpid(), {1})
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    old = signal.signal(signal.SIGUSR2, lambda *_: None)
    read, write = os.pipe()
    try:
        faults = Conduct.look(os.getpid(), {1, 2}).faults(dataclasses.replace(before, threads=1), 1 << 60)
    finally:
        end.set()
        thread.join()
        signal.signal(signal.SIGUSR2, old)
        os.close(read)
        os.close(write)
    assert "left 1 process" in faults and "changed what happens at SIGUSR2" in faults
    assert any("thread" in fault for fault in faults) and any("left open pipe:" in fault for fault in faults)


def test_a_process_that_is_gone_is_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="No such file"):
        Conduct.look(7, (), tmp_path)


class Cgroup:
    def __init__(self) -> None:
        self.found = {os.getpid()}

    def processes(self) -> set[int]:
        return self.found


def test_only_what_is_seen_twice_while_nothing_is_asked_of_it_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conduct, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(conduct, "LOOK_AGAIN_S", 0.0)
    seen: list[list[str]] = [["once"], [], ["twice"], ["twice"]]
    looks = iter(seen)
    watch = Watch(os.getpid(), (Cgroup(), Cgroup()), 1 << 60)  # type: ignore[arg-type]
    monkeypatch.setattr(Watch, "look", lambda _: next(looks))
    busy = iter([True, True, *[False] * 10])

    async def scenario() -> str:
        async with asyncio.timeout(1):
            return await watch.until_fault(lambda: next(busy))

    assert asyncio.run(scenario()) == "twice"
