"""What is read of memory, and when it is told."""

import asyncio
from pathlib import Path

from runtime import memory_watch
from runtime.memory_watch import MemoryWatch, parse_meminfo
from runtime.protocol import MemoryReading

GIB = 1 << 30


def meminfo(available_kib: int, total_kib: int = 1 << 20) -> str:
    return f"MemTotal:   {total_kib} kB\nMemFree:        12 kB\nMemAvailable:   {available_kib} kB\nCached: 1 kB\n"


def test_meminfo_is_read():
    assert parse_meminfo(meminfo(5).encode()) == (5 * 1024, GIB)
    assert parse_meminfo((meminfo(5) + "Cached:   ").encode()) == (5 * 1024, GIB), "cut off anywhere behind"


class Looks:
    """A watch of fake files, `looks` times around."""

    def __init__(self, tmp_path: Path, monkeypatch) -> None:
        self.proc, self.sent, self.below = tmp_path, [], None
        monkeypatch.setattr(memory_watch, "PERIOD_S", 0.001)

    def run(self, *steps) -> list[MemoryReading]:
        async def scenario() -> None:
            self.write(meminfo(500_000))
            watch = MemoryWatch(lambda: self.below, self.sent.append, proc=self.proc)
            task = asyncio.ensure_future(watch.run())
            for step in (lambda: None, *steps):
                step()
                await asyncio.sleep(0.01)
            task.cancel()

        asyncio.run(scenario())
        return self.sent

    def write(self, text: str) -> None:
        with open(self.proc / "meminfo", "r+" if (self.proc / "meminfo").exists() else "w") as file:
            file.write(text)


def test_what_has_not_changed_is_told_once(tmp_path: Path, monkeypatch):
    looks = Looks(tmp_path, monkeypatch)
    assert looks.run(lambda: looks.write(meminfo(500_001))) == [
        MemoryReading(available_bytes=500_000 * 1024, total_bytes=GIB)
    ]


def test_a_change_is_told(tmp_path: Path, monkeypatch):
    looks = Looks(tmp_path, monkeypatch)
    found = looks.run(lambda: looks.write(meminfo(400_000)))
    assert [one.available_bytes for one in found] == [500_000 * 1024, 400_000 * 1024]


def test_a_tighter_limit_of_a_cgroup_is_told_and_a_looser_one_not(tmp_path: Path, monkeypatch):
    looks = Looks(tmp_path, monkeypatch)
    found = looks.run(lambda: setattr(looks, "below", (90, 100)), lambda: setattr(looks, "below", (10, 100)))
    assert [(one.available_bytes, one.total_bytes) for one in found] == [(500_000 * 1024, GIB), (10, 100)]


def test_all_is_told_again_for_a_new_gateway(tmp_path: Path, monkeypatch):
    looks = Looks(tmp_path, monkeypatch)
    monkeypatch.setattr(memory_watch, "RESEND_S", 0.002)
    assert len(looks.run()) > 1
