"""Who makes a layer, who waits for it, and what a build keeps. The builder's processes are played by the test."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rootfs_builder import layering
from rootfs_builder.channel import decode
from runtime import layer_builds
from runtime.config import Settings
from runtime.errors import BuildError
from runtime.layer_builds import LayerBuild, LayerBuilds
from runtime.model import LayerId, Locked, RuntimeName, layer_id

RUNTIME = RuntimeName("python3.11")
DONE = {"event": "done", "install_ms": 2.0, "compile_ms": 3.0}


def locked(name: str, **changes: Any) -> Locked:
    sha256 = f"{ord(name):x}" * 32
    return Locked(
        name=name, version="1", filename=f"{name}-1.whl", url=f"https://i.test/{name}", sha256=sha256, **changes
    )


def layer(name: str) -> LayerId:
    return layer_id(RUNTIME, locked(name).sha256)


A, B, C = (locked(name) for name in "abc")


class Process:
    """One builder process. It waits for `let_go` before it says the events of its stage."""

    def __init__(self, stage: "Stage", name: str) -> None:
        self.stage, self.name = stage, name
        self.staging = Path("/staging") / name
        self.asked: dict[str, Any] = {}
        self.answers: list[str] = []
        self.let_go = asyncio.Event()
        self.ends: list[str] = []
        self.says: list[dict[str, Any]] = [{"event": "progress", "phase": "install", "message": name}, DONE]

    async def request(self, request: dict[str, Any]) -> None:
        self.asked = request
        self.stage.requested.set()

    @property
    def wanted(self) -> str:
        return "".join(one["name"] for one in self.asked["wanted"])

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        await self.let_go.wait()
        for event in self.says:
            if event["event"] == "failed":
                raise BuildError(event["kind"], event["message"])
            yield event

    def answer(self, word: str, descriptor: int | None = None) -> None:
        self.answers.append(word)

    async def end(self) -> None:
        self.ends.append("end")

    async def aclose(self) -> None:
        self.ends.append("close")


class Stage:
    """pagurusd around them: the store, and all processes that were started."""

    def __init__(self, *there: str) -> None:
        self.stored = {layer(name) for name in there}
        self.processes: list[Process] = []
        self.requested = asyncio.Event()
        self.adopted: list[str] = []
        self.touched: list[LayerId] = []
        self.trims = 0
        self.pinned_at_trim: list[dict[LayerId, int]] = []
        self.layers = SimpleNamespace(
            has_layer=lambda one: one in self.stored,
            adopt_layer=self._adopt,
            touch=self.touched.extend,
            trim=self._trim,
            pinned=Counter(),
            root_lowers=lambda runtime: [Path("/skeleton"), Path(f"/base/{runtime}/fs")],
        )
        settings = Settings(index_url="https://i.test", extra_index_urls=("https://more.test",))
        self.parts: Any = SimpleNamespace(settings=settings, layers=self.layers)
        self.builds = LayerBuilds(self.parts)

    def _adopt(self, staged: Path, one: LayerId) -> None:
        assert staged.name == one and staged.parent.name == "layers"
        process = next(each for each in self.processes if each.staging == staged.parent.parent)
        assert process.ends == ["end"], "all processes that could write to it have ended"
        self.adopted.append(next(name for name in "abc" if layer(name) == one))
        self.stored.add(one)

    def _trim(self) -> None:
        self.trims += 1
        self.pinned_at_trim.append(dict(self.layers.pinned))

    async def start(self, parts: object, command: str, name: str, descriptors: tuple[int, ...] = ()) -> Process:
        assert command == "layers" and parts is self.parts
        assert name not in [each.name for each in self.processes]
        self.processes.append(Process(self, name))
        return self.processes[-1]

    async def process(self, number: int) -> Process:
        """The n-th, once it was asked to make something."""
        while len(self.processes) <= number or not self.processes[number].asked:
            self.requested.clear()
            await self.requested.wait()
        return self.processes[number]


def staged(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Stage], Awaitable[None]], *there: str) -> None:
    """Run a scenario; afterwards nobody waits, nothing is pinned, and every process is gone."""

    async def run() -> None:
        stage = Stage(*there)
        monkeypatch.setattr(layer_builds, "BuilderProcess", SimpleNamespace(start=stage.start))
        async with asyncio.timeout(30):
            await scenario(stage)
        assert not stage.builds._making and not stage.layers.pinned
        assert all(each.ends[-1:] == ["close"] for each in stage.processes)

    asyncio.run(run())


async def make(stage: Stage, name: str, *wanted: Locked, told: list[dict[str, Any]] | None = None) -> dict[str, float]:
    """One build from its opening to its end."""
    async with stage.builds.opened(RUNTIME, name) as build:
        stage.builds.pin(build, wanted)
        await build.make(wanted, (told if told is not None else []).append)
        assert all(layer(one.name) in stage.stored for one in wanted)
        return build.phases_ms


def test_layers_are_made_by_one_process_and_adopted_after_its_end(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        told: list[dict[str, Any]] = []
        task = asyncio.create_task(make(stage, "one", A, B, told=told))
        process = await stage.process(0)
        assert stage.adopted == [] and process.wanted == "ab"
        process.let_go.set()
        assert await task == {"install": 2.0, "compile": 3.0}
        assert stage.adopted == ["a", "b"] and len(stage.processes) == 1
        assert [event["message"] for event in told] == [process.name]

    staged(monkeypatch, scenario)


def test_the_request_is_one_that_the_builder_takes(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        task = asyncio.create_task(make(stage, "one", A))
        process = await stage.process(0)
        request = decode(json.dumps(process.asked).encode(), layering.Request)
        assert request.wanted == (A,) and request.staging == str(process.staging)
        assert (request.python, request.rootfs) == ("/usr/bin/python3.11", "/base/python3.11/fs")
        assert (request.index_url, request.extra_index_urls) == ("https://i.test", ("https://more.test",))
        process.let_go.set()
        await task

    staged(monkeypatch, scenario)


def test_layers_that_are_there_are_not_made_again(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        assert await make(stage, "one", A, B) == {}
        assert not stage.processes and stage.touched == [layer("a"), layer("b")]
        task = asyncio.create_task(make(stage, "two", A, C))
        process = await stage.process(0)
        assert process.wanted == "c"
        process.let_go.set()
        await task

    staged(monkeypatch, scenario, "a", "b")


def test_two_builds_at_once_make_a_layer_once(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        one = asyncio.create_task(make(stage, "one", A, B))
        first = await stage.process(0)
        two = asyncio.create_task(make(stage, "two", B, C))
        second = await stage.process(1)
        three = asyncio.create_task(make(stage, "three", A, B, C))
        assert (first.wanted, second.wanted) == ("ab", "c")
        second.let_go.set()
        while stage.adopted != ["c"]:
            await asyncio.sleep(0)
        assert not one.done() and not two.done() and not three.done(), "b is still being made"
        first.let_go.set()
        await asyncio.gather(one, two, three)
        assert sorted(stage.adopted) == ["a", "b", "c"] and len(stage.processes) == 2

    staged(monkeypatch, scenario)


@pytest.mark.parametrize("how", ["fails", "is cancelled", "lies"])
def test_who_waits_takes_over_when_the_other_does_not_make_it(monkeypatch: pytest.MonkeyPatch, how: str):
    async def scenario(stage: Stage) -> None:
        one = asyncio.create_task(make(stage, "one", A))
        first = await stage.process(0)
        two = asyncio.create_task(make(stage, "two", A))
        await asyncio.sleep(0)
        assert len(stage.processes) == 1
        if how == "fails":
            first.says = [{"event": "failed", "kind": "install", "message": "broken"}]
            first.let_go.set()
        elif how == "is cancelled":
            one.cancel()
        else:
            stage.layers.adopt_layer = _refusing
            first.let_go.set()
        with pytest.raises((BuildError, asyncio.CancelledError)):
            await one
        stage.layers.adopt_layer = stage._adopt
        second = await stage.process(1)
        assert second.wanted == "a" and not two.done()
        second.let_go.set()
        await two
        assert stage.adopted == ["a"]

    staged(monkeypatch, scenario)


def _refusing(staged: Path, one: LayerId) -> None:
    raise BuildError("internal", "it is not as the builder should have made it")


def test_builds_that_need_each_other_s_layers_do_not_wait_in_a_circle(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        one = asyncio.create_task(make(stage, "one", A))
        first = await stage.process(0)
        two = asyncio.create_task(make(stage, "two", B, A))
        second = await stage.process(1)
        three = asyncio.create_task(make(stage, "three", A, B))
        for process in (second, first):
            process.let_go.set()
        await asyncio.gather(one, two, three)

    staged(monkeypatch, scenario)


def test_a_process_that_was_started_early_is_used_and_one_that_was_not_needed_ends(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        async with stage.builds.opened(RUNTIME, "early") as build:
            await build.prepare()
            await build.prepare()
            assert len(stage.processes) == 1
            task = asyncio.create_task(build.make([A], lambda event: None))
            (await stage.process(0)).let_go.set()
            await task
            await build.prepare()
            assert len(stage.processes) == 2
        assert stage.processes[1].ends == ["close"] and not stage.processes[1].asked

    staged(monkeypatch, scenario)


def test_what_a_build_relies_on_is_pinned_until_it_ends_however_it_ends(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        pinned = stage.layers.pinned
        with pytest.raises(ZeroDivisionError):
            async with stage.builds.opened(RUNTIME, "one") as one:
                stage.builds.pin(one, [A, B])
                async with stage.builds.opened(RUNTIME, "two") as two:
                    stage.builds.pin(two, [B, C])
                    assert stage.layers.pinned == {layer("a"): 1, layer("b"): 2, layer("c"): 1}
                assert stage.layers.pinned == {layer("a"): 1, layer("b"): 1}
                stage.builds.pin(one, [C])
                assert +stage.layers.pinned == {layer("c"): 1}, "what it asked for before is not pinned for ever"
                raise ZeroDivisionError
        assert stage.layers.pinned is pinned or not stage.layers.pinned
        assert stage.trims == 2
        assert stage.pinned_at_trim[0] == {layer("a"): 1, layer("b"): 1}, "what others need stays"

    staged(monkeypatch, scenario)


def test_sdists_are_built_in_boxes_one_after_another_and_the_builder_goes_on(monkeypatch: pytest.MonkeyPatch):
    boxes: list[tuple[Any, ...]] = []
    told: list[dict[str, Any]] = []

    async def build_wheel(parts: object, runtime: str, sdist: Path, filename: str, **options: Any) -> None:
        boxes.append((sdist, filename, options["name"], options["version"], options["sha256"], options["into"]))
        options["progress"]("line of the box")

    monkeypatch.setattr(layer_builds.build_box, "build_wheel", build_wheel)

    async def scenario(stage: Stage) -> None:
        task = asyncio.create_task(make(stage, "one", A, B, told=told))
        process = await stage.process(0)
        sources = [process.asked["wanted"][0], process.asked["wanted"][1]]
        process.says = [{"event": "sources", "sources": sources}, DONE]
        process.let_go.set()
        await task
        assert process.answers == ["built"]
        folder = process.staging
        assert boxes == [
            (folder / "downloads" / one.filename, one.filename, one.name, "1", one.sha256, folder / "built")
            for one in (A, B)
        ]

    staged(monkeypatch, scenario)
    assert [(event["phase"], event["fraction"]) for event in told] == [("build", 0.0), ("build", 0.5)]


@pytest.mark.parametrize("spent", [{}, {"install_ms": None}, {"install_ms": "x", "compile_ms": []}])
def test_times_that_a_builder_does_not_tell_are_none(monkeypatch: pytest.MonkeyPatch, spent: dict[str, Any]):
    async def scenario(stage: Stage) -> None:
        task = asyncio.create_task(make(stage, "one", A))
        process = await stage.process(0)
        process.says = [{"event": "done", **spent}]
        process.let_go.set()
        assert await task == {}

    staged(monkeypatch, scenario)


# --- what is believed


ENTRY = {"name": "a", "version": "1", "filename": "a-1.whl", "url": "https://i.test/a", "sha256": "d" * 64}


def test_an_entry_as_the_builder_has_locked_it_is_taken():
    assert layer_builds.checked(ENTRY) == Locked(**ENTRY)
    assert layer_builds.checked({**ENTRY, "size": 7, "is_source": True}).is_source


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "a",
        [],
        {},
        {**ENTRY, "name": 1},
        {**ENTRY, "size": "large"},
        {**ENTRY, "is_source": "yes"},
        {**ENTRY, "sha256": "d" * 63},
        {**ENTRY, "sha256": "../" + "d" * 61},
        {**ENTRY, "sha256": "D" * 64},
        {**ENTRY, "sha256": "d" * 64 + "\n"},
    ],
)
def test_an_entry_that_cannot_be_is_refused(entry: object):
    with pytest.raises(BuildError) as caught:
        layer_builds.checked(entry)
    assert caught.value.kind == "internal"


def test_a_file_in_memory_holds_all_and_goes_afterwards():
    with layer_builds.memory_file(b"x" * 100_000) as descriptor:
        assert os.pread(descriptor, 200_000, 0) == b"x" * 100_000
        assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_build_that_was_given_nothing_needs_nothing(monkeypatch: pytest.MonkeyPatch):
    async def scenario(stage: Stage) -> None:
        async with stage.builds.opened(RUNTIME, "none") as build:
            assert isinstance(build, LayerBuild) and build.layers == ()
            await build.make([], lambda event: None)

    staged(monkeypatch, scenario)
