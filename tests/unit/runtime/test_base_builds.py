"""Who waits for the build of a base, and when it ends. No builder is started."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.base_builds import BaseBuilds
from runtime.errors import BuildError
from runtime.protocol import BuildFailed, BuildProgress, BuildRuntime, DropRuntime, RuntimesChanged
from tests.unit.runtime.test_bases import ONE, TWO, base

OTHER = "python3.13"


class Stage:
    """BaseBuilds whose builder ends when told to."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rootfs = state / "rootfs"
        self.rootfs.mkdir()
        self.sent: list[object] = []
        self.in_use: set[str] = set()
        self.discarded: list[str] = []
        self.forgotten: list[str] = []
        self.started = 0
        self.cancelled = 0
        self.let_go = asyncio.Event()
        self.failure: Exception | None = None
        layers = SimpleNamespace(discard_path=self._discard)
        overlays = SimpleNamespace(forget=self.forgotten.append)
        parts = SimpleNamespace(settings=SimpleNamespace(state_dir=str(state)), layers=layers, overlays=overlays)
        self.builds = BaseBuilds(parts, self.sent.append, lambda: self.in_use)
        monkeypatch.setattr(self.builds, "_build", self._build)

    def _discard(self, path: Path) -> None:
        self.discarded.append(path.name)
        path.rename(self.rootfs.parent / f"trash-{path.name}")

    async def _build(self, build: object) -> None:
        self.started += 1
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        base(self.rootfs, OTHER)

    def told(self, number: int) -> list[str]:
        return [type(one).__name__ for one in self.sent if one.build == number]  # type: ignore[attr-defined]


def staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Stage, asyncio.TaskGroup], Awaitable[None]]
) -> None:
    async def run() -> None:
        stage = Stage(tmp_path, monkeypatch)
        async with asyncio.TaskGroup() as group:
            await scenario(stage, group)
        assert stage.builds.count == 0

    asyncio.run(run())


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_two_who_ask_at_once_get_one_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        for number in (1, 2):
            stage.builds.start(group, BuildRuntime(build=number, runtime=OTHER))
        await turn()
        stage.let_go.set()
        await turn()
        assert stage.started == 1
        assert stage.told(1) == ["RuntimesChanged"] and stage.told(2) == ["BuildProgress", "RuntimesChanged"]
        assert [one.runtime for one in stage.sent[-1].runtimes] == [OTHER]  # type: ignore[attr-defined]

    staged(tmp_path, monkeypatch, scenario)


def test_a_build_goes_on_until_its_last_asker_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        for number in (1, 2):
            stage.builds.start(group, BuildRuntime(build=number, runtime=OTHER))
        await turn()
        stage.builds.cancel(1)
        await turn()
        assert stage.told(1) == ["BuildFailed"] and stage.cancelled == 0 and stage.builds.count == 1
        stage.builds.cancel(2)
        stage.builds.start(group, BuildRuntime(build=3, runtime=OTHER))  # while the other is ending
        await turn()
        assert stage.cancelled == 1 and stage.started == 2
        stage.let_go.set()
        await turn()
        assert stage.told(3) == ["RuntimesChanged"]

    staged(tmp_path, monkeypatch, scenario)


def test_a_build_that_is_cancelled_before_it_begins_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        stage.builds.start(group, BuildRuntime(build=1, runtime=OTHER))
        stage.builds.cancel_all()
        await turn()
        assert stage.started == 0

    staged(tmp_path, monkeypatch, scenario)


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (BuildError("base", "no mirror", hint="mend it"), "base", "no mirror"),
        (KeyError("event"), "internal", "event"),
        (OSError(28, "no space"), "internal", "no space"),
    ],
)
def test_a_failure_is_told_to_all_who_wait(
    failure: Exception, kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        stage.failure = failure
        for number in (1, 2):
            stage.builds.start(group, BuildRuntime(build=number, runtime=OTHER))
        stage.let_go.set()
        await turn()
        told = [one for one in stage.sent if not isinstance(one, BuildProgress)]
        assert [(type(one), one.build, one.kind) for one in told] == [(BuildFailed, n, kind) for n in (1, 2)]
        assert text in told[0].message

    staged(tmp_path, monkeypatch, scenario)


def test_an_unknown_runtime_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        stage.builds.start(group, BuildRuntime(build=1, runtime="../../etc"))
        (failed,) = stage.sent
        assert failed.kind == "base" and "python3.11, python3.13" in failed.hint  # type: ignore[attr-defined]
        assert stage.started == stage.builds.count == 0

    staged(tmp_path, monkeypatch, scenario)


def test_what_is_given_up_goes_when_nothing_mounts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        place = base(stage.rootfs, OTHER)
        kept = base(stage.rootfs, "python3.11")
        stage.in_use = {place.name, kept.name}
        stage.builds.drop(DropRuntime(build=1, runtime=OTHER))
        assert isinstance(stage.sent[-1], RuntimesChanged)
        assert [one.runtime for one in stage.sent[-1].runtimes] == ["python3.11"]
        stage.builds.tick()
        assert place.is_dir()
        stage.in_use = {kept.name}
        stage.builds.tick()
        assert stage.discarded == [place.name] and stage.forgotten == [f"root {place.name}"] and kept.is_dir()
        stage.builds.drop(DropRuntime(build=2, runtime=OTHER))
        assert stage.told(2) == ["BuildFailed"]

    staged(tmp_path, monkeypatch, scenario)


def test_nothing_is_removed_while_a_base_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        old = base(stage.rootfs, "python3.11", ONE)
        base(stage.rootfs, "python3.11", TWO)
        stage.builds.start(group, BuildRuntime(build=1, runtime=OTHER))
        await turn()
        assert stage.builds.discard_old() == []
        stage.let_go.set()
        await turn()
        assert stage.builds.discard_old() == [old.name]
        assert stage.builds.discard_old() == []

    staged(tmp_path, monkeypatch, scenario)


def test_leftovers_of_killed_builders_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage, group: asyncio.TaskGroup) -> None:
        (stage.rootfs / ".tmp-python3.13-abc").mkdir()
        (stage.rootfs / ".tmp-python3.13.link").symlink_to("nowhere")
        assert stage.builds.discard_leftovers() == 2
        assert [path.name for path in stage.rootfs.iterdir()] == [".lock"]

    staged(tmp_path, monkeypatch, scenario)
