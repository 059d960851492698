"""Builds from an index of the test's own, through pagurusd's node: what is stored, what is refused, what is shared."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from runtime import protocol, sealed
from runtime.frames import FrameKind
from tests import index as indexes
from tests.index import Fault, Index
from tests.node_bed import Bed, Scenario, in_node, on_small_disk
from tests.wheels import packed, packed_sdist

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

USES = "import {module}\n\ndef main(param):\n    return {module}.VALUE\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "2")


def run(scenario: Scenario, **settings: object) -> None:
    in_node(**settings)(scenario)()


async def value(bed: Bed, built: protocol.BuildSucceeded, zygote: str = "base") -> object:
    """What the built function returns."""
    environment = built.environment.id if built.environment else None
    sandbox = await bed.start(zygote, bed.assignment(built.code, environment=environment))
    answer = await bed.call(sandbox)
    assert answer.kind is FrameKind.RESULT, answer.value
    await bed.end(sandbox)
    return answer.value


def test_wheels_become_layers_that_functions_import():
    with Index({**packed("dep", "1.0"), **packed("app-kit", "2.0", {"kit.py": "VALUE = 'kit'\n"}, ["dep"])}) as index:

        async def scenario(bed: Bed) -> None:
            await bed.zygote()
            built = await bed.build("App_Kit", {"main.py": USES.format(module="kit")})
            assert built.environment is not None
            assert [f"{one.name}=={one.version}" for one in built.environment.distributions] == [
                "app-kit==2.0",
                "dep==1.0",
            ]
            assert built.environment.imports == ("kit",)
            assert built.lock.count("--hash=sha256:") == 2
            assert {"unpack", "resolve", "layers", "install", "compile"} <= set(built.phases_ms)
            assert await value(bed, built) == "kit"
            layers = bed.parts.layers
            for layer in layers.index.layers:
                for path in (Path(bed.parts.settings.state_dir) / "layers" / layer / "fs").rglob("*"):
                    assert path.stat().st_mode & 0o022 == 0, path
                    assert not path.is_symlink()
            cached = {path.name for path in Path(bed.parts.settings.state_dir).glob("layers/*/fs/__pycache__/*")}
            assert len(cached) == 1, "byte code was compiled at the build"
            await bed.zygote("all", [built.environment])
            assert await value(bed, built, "all") == "kit"

        run(scenario, index_url=index.url)


def test_a_package_is_stored_once_for_all_functions_and_found_again_at_once():
    with Index(
        {**packed("dep", "1.0"), **packed("one", "1", requires=["dep"]), **packed("two", "1", requires=["dep"])}
    ) as index:

        async def scenario(bed: Bed) -> None:
            first, second = await bed.build("one"), await bed.build("two")
            assert first.environment != second.environment
            assert len(bed.parts.layers.index.layers) == 3
            again = await bed.build("one", {"main.py": "def main(p): return 2\n"})
            assert again.environment == first.environment and "layers" not in again.phases_ms

        run(scenario, index_url=index.url)
        assert set(index.downloads.values()) == {1}, index.downloads


def test_builds_at_once_make_a_layer_once():
    files = {**packed("dep", "1.0")}
    for number in range(4):
        files |= packed(f"app{number}", "1", requires=["dep"])
    with Index(files) as index:

        async def scenario(bed: Bed) -> None:
            builds = [bed.start_build(f"app{number}") for number in range(4)]
            for build in builds:
                result = await bed.built(build)
                assert isinstance(result, protocol.BuildSucceeded), result
            assert len(bed.parts.layers.index.layers) == 5
            assert not bed.parts.layers.pinned

        run(scenario, index_url=index.url, builds_at_once=4)
        assert index.downloads["dep-1.0-py3-none-any.whl"] == 1


def test_a_layer_that_one_build_fails_to_make_is_made_by_the_other():
    with Index(
        {
            **packed("dep", "1.0"),
            **packed("bad", "1", requires=["dep"], record="wrong-hash"),
            **packed("good", "1", requires=["dep"]),
        }
    ) as index:

        async def scenario(bed: Bed) -> None:
            bad, good = bed.start_build("bad"), bed.start_build("good")
            assert isinstance(await bed.built(bad), protocol.BuildFailed)
            assert isinstance(await bed.built(good), protocol.BuildSucceeded)

        run(scenario, index_url=index.url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"record": "wrong-hash"}, "not as its RECORD says"),
        ({"record": "missing-entry"}, "its RECORD does not list"),
        ({"record": "extra-entry"}, "which its RECORD lists"),
        ({"metadata_name": "other"}, "says that it is 'other'"),
    ],
)
def test_a_wheel_that_lies_is_refused(options: dict[str, str], words: str):
    with Index(packed("dep", "1.0", **options), has_metadata=False) as index:

        async def scenario(bed: Bed) -> None:
            failed = await bed.refused("dep")
            assert failed.kind in ("install", "requirements"), failed
            assert words in failed.message or "name" in failed.message, failed

        run(scenario, index_url=index.url)


def test_a_file_with_another_hash_than_the_index_says_is_refused():
    with Index(packed("dep", "1.0"), hashes={"dep-1.0-py3-none-any.whl": "0" * 64}) as index:

        async def scenario(bed: Bed) -> None:
            failed = await bed.refused("dep")
            assert failed.kind == "install" and "another hash than the lock" in failed.message

        run(scenario, index_url=index.url)


def test_hashes_of_the_user_are_honoured_and_nothing_is_added():
    with Index({**packed("dep", "1.0"), **packed("app", "1", {"app.py": "VALUE = 5\n"}, ["dep"])}) as index:
        sha256 = index.sha256("app-1-py3-none-any.whl")

        async def scenario(bed: Bed) -> None:
            await bed.zygote()
            lock = f"app==1 --hash=sha256:{sha256}\n"
            built = await bed.build(lock, {"main.py": USES.format(module="app")})
            assert built.environment is not None
            assert [one.name for one in built.environment.distributions] == ["app"]
            assert await value(bed, built) == 5
            failed = await bed.refused(f"dep==1.0 --hash=sha256:{'1' * 64}\n")
            assert "none of the hashes" in failed.message
            index.remote.set(indexes.ALL, Fault.NOT_FOUND)
            again = await bed.build(lock)
            assert again.environment == built.environment, "a lock that is known needs no index"

        run(scenario, index_url=index.url)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (Fault.NOT_FOUND, "dep"),
        (Fault.NOT_FOUND, "dep-1.0-py3-none-any.whl"),
        (Fault.FORBIDDEN, indexes.ALL),
        (Fault.SILENCE, "dep"),
        (Fault.CUT, "dep-1.0-py3-none-any.whl"),
        (Fault.DAMAGE, "dep-1.0-py3-none-any.whl"),
    ],
)
def test_an_index_that_fails_is_told_and_the_next_build_works(fault: Fault, where: str):
    with Index(packed("dep", "1.0")) as index:

        async def scenario(bed: Bed) -> None:
            index.remote.set(where, fault)
            failed = await bed.refused("dep")
            assert "dep" in failed.message and failed.hint, failed
            index.remote.set(where, None)
            await bed.build("dep")

        run(scenario, index_url=index.url)


def test_an_index_that_is_down_is_told():
    with Index(packed("dep", "1.0")) as index, index.down():

        async def scenario(bed: Bed) -> None:
            failed = await bed.refused("dep")
            assert "package index" in failed.hint, failed

        run(scenario, index_url=index.url)


def test_a_password_of_the_index_reaches_the_index_and_nothing_else():
    secret = "s3cret-of-the-index"
    with Index(packed("dep", "1.0"), user="me", password=secret) as index:

        async def scenario(bed: Bed) -> None:
            built = await bed.build("dep")
            failed = await bed.refused("dep==9")
            found = subprocess.run(
                ["grep", "-rlF", secret, *(f"{bed.parts.settings.state_dir}/{name}" for name in ("layers", "code"))],
                capture_output=True,
                text=True,
                check=False,
            )
            assert found.stdout == ""
            assert secret not in repr(built) + repr(failed) + repr(bed.received)

        run(scenario, index_url=index.url_with_credentials)
        assert index.credentials_seen == {f"me:{secret}"}


def test_a_package_without_a_wheel_is_built_in_a_box():
    with Index({**packed_sdist("src", "1.0"), **packed("dep", "1.0")}) as index:

        async def scenario(bed: Bed) -> None:
            await bed.zygote()
            built = await bed.build("src\ndep")
            assert built.environment is not None
            assert {one.name for one in built.environment.distributions} == {"src", "dep"}
            sandbox = await bed.start(
                "base",
                bed.assignment(bed.write_code("import src\nmain = lambda p: 1\n"), environment=built.environment.id),
            )
            assert (await bed.call(sandbox)).value == 1

        run(scenario, index_url=index.url)


def test_without_sdists_a_package_without_a_wheel_is_refused():
    with Index(packed_sdist("src", "1.0")) as index:

        async def scenario(bed: Bed) -> None:
            failed = await bed.refused("src")
            assert "wheel" in failed.message and "sdists" in failed.hint

        run(scenario, index_url=index.url, sdists=False)


def test_files_of_two_packages_are_reported():
    shared = {"shared.py": "VALUE = 'a'\n"}
    with Index({**packed("aa", "1", shared), **packed("bb", "1", {"shared.py": "VALUE = 'b'\n"}, ["aa"])}) as index:

        async def scenario(bed: Bed) -> None:
            built = await bed.build("bb")
            assert [(one.path, one.used, one.hidden) for one in built.conflicts] == [("shared.py", "bb", "aa")]
            warnings = [m.message for m in bed.told(protocol.BuildProgress) if "hides" in m.message]
            assert warnings == ["warning: shared.py of bb hides the one of aa"]

        run(scenario, index_url=index.url)


def test_layers_are_kept_within_the_budget_and_given_up_on_request():
    files: dict[str, bytes] = {}
    for number in range(4):
        files |= packed(f"big{number}", "1", {f"big{number}.bin": os.urandom(300_000).hex()})
    with Index(files) as index:

        async def scenario(bed: Bed) -> None:
            index_of = bed.parts.layers.index
            built = [await bed.build(f"big{number}") for number in range(3)]
            bed.node.handle(protocol.Discard(environments=(built[0].environment.id, built[1].environment.id)), [])
            # Two of 600 kB each may stay: that of the environment that is there, and the last used of the others.
            assert sorted(layer.label for layer in index_of.layers.values()) == ["big1==1", "big2==1"]
            await bed.build("big1")
            assert index.remote.downloads()["big1-1-py3-none-any.whl"] == 1, "it was still there"
            keep = protocol.Keep(codes=frozenset(), environments=frozenset({built[2].environment.id}))
            dry = await collect(bed, keep, dry_run=True)
            assert {(item.kind, item.label) for item in dry.items} == {
                ("code", ""),
                ("environment", ""),
                ("layer", "big1==1"),
            }
            assert len(index_of.layers) == 2
            done = await collect(bed, keep, dry_run=False)
            assert done.freed_bytes == dry.freed_bytes > 600_000
            assert [layer.label for layer in index_of.layers.values()] == ["big2==1"]
            assert (await collect(bed, keep, dry_run=True)).count == 0

        run(scenario, index_url=index.url, store_bytes=1_300_000)


async def collect(bed: Bed, keep: protocol.Keep, *, dry_run: bool) -> protocol.GarbageCollected:
    ticket = len(bed.received) + 1000
    bed.node.handle(protocol.CollectGarbage(ticket=ticket, dry_run=dry_run), [sealed.seal(keep)])
    return (await bed.until(lambda: bed.told(protocol.GarbageCollected, ticket=ticket)))[0]


def test_what_is_mounted_is_not_given_up():
    with Index(packed("dep", "1.0", {"dep.py": "VALUE = 1\n"})) as index:

        async def scenario(bed: Bed) -> None:
            built = await bed.build("dep", {"main.py": USES.format(module="dep")})
            await bed.zygote()
            sandbox = await bed.start("base", bed.assignment(built.code, environment=built.environment.id))
            nothing = protocol.Keep(codes=frozenset(), environments=frozenset())
            assert (await collect(bed, nothing, dry_run=False)).count == 0
            assert (await bed.call(sandbox)).value == 1
            await bed.end(sandbox)
            found = await collect(bed, nothing, dry_run=False)
            assert {item.kind for item in found.items} == {"code", "environment", "layer"}

        run(scenario, index_url=index.url)


def test_a_cancelled_build_leaves_nothing_and_the_layer_can_be_made_again():
    with Index(packed("dep", "1.0")) as index:

        async def scenario(bed: Bed) -> None:
            index.remote.set("dep-1.0-py3-none-any.whl", Fault.STALL)
            build = bed.start_build("dep")
            await bed.until(lambda: [m for m in bed.told(protocol.BuildProgress) if m.phase == "download"])
            bed.node.handle(protocol.CancelBuild(build=build), [])
            failed = await bed.built(build)
            assert isinstance(failed, protocol.BuildFailed) and failed.kind == "cancelled"
            index.remote.set("dep-1.0-py3-none-any.whl", None)
            await bed.build("dep")

        run(scenario, index_url=index.url)


def test_a_full_disk_is_told_and_loses_nothing():
    """The state directory is a small tmpfs in a mount namespace of the node's own."""
    files = {
        **packed("small", "1", {"small.py": "VALUE = 1\n"}),
        **packed("huge", "1", {"huge.bin": os.urandom(12 << 20)}),
    }
    with Index(files) as index:

        async def scenario(bed: Bed) -> None:
            await bed.zygote()
            built = await bed.build("small", {"main.py": USES.format(module="small")})
            failed = await bed.refused("huge")
            assert (failed.kind, "disk is full" in failed.message, bool(failed.hint)) == ("limit", True, True), failed
            assert await value(bed, built) == 1
            await asyncio.sleep(0)
            again = await bed.build("small", {"main.py": "def main(p): return 2\n"})
            assert await value(bed, again) == 2

        on_small_disk(scenario, 24 << 20, index_url=index.url)


# --- the index that this machine is configured with


@in_node()
async def test_a_function_with_requests_is_built_and_runs(bed: Bed):
    await bed.zygote()
    built = await bed.build(
        "requests", {"main.py": "import requests\n\ndef main(p):\n    return requests.__cached__\n"}
    )
    assert built.environment is not None and built.environment.imports == ("requests",)
    assert "urllib3" in {each.name for each in built.environment.distributions}
    assert str(await value(bed, built)).startswith("/opt/env/requests/__pycache__/")
    phases = list(dict.fromkeys(message.phase for message in bed.told(protocol.BuildProgress)))
    assert phases == ["unpack", "resolve", "download", "install", "compile"]


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ("requests==2.31.0\nurllib3==1.20", ("requests==2.31.0 depends on urllib3>=1.21.1,<3", "urllib3==1.20")),
        ("no-such-package-of-pagurus", ("no-such-package-of-pagurus", "not found")),
        ("requests==9999", ("no version of requests==9999",)),
        ("git+https://example.test/a", ("repository",)),
        ("./a", ("path",)),
        ("a @ https://example.test/a-1-py3-none-any.whl", ("URL",)),
    ],
)
def test_what_cannot_be_resolved_is_told_in_uv_s_words(requirements: str, words: tuple[str, ...]):
    async def scenario(bed: Bed) -> None:
        failed = await bed.refused(requirements)
        assert failed.kind == "requirements" and failed.hint
        assert all(word in failed.message for word in words), failed

    run(scenario)


def test_a_wheel_s_address_is_taken_where_the_node_allows_it():
    async def scenario(bed: Bed) -> None:
        failed = await bed.refused("dep @ https://127.0.0.1:1/dep-1.0-py3-none-any.whl#sha256=" + "0" * 64)
        assert "is a URL" not in failed.message, "it is asked for, and refuses the connection"

    run(scenario, url_requirements=True)
