"""What pagurusd tells the builder, and what it takes from it."""

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from rootfs_builder.build import Request
from rootfs_builder.channel import decode
from runtime.builds import _Build
from runtime.config import Settings
from runtime.errors import BuildError
from runtime.layer_builds import LayerBuilds
from runtime.model import Environment, EnvironmentManifest
from runtime.protocol import BuildSucceeded, BuildVersion


def test_the_request_is_one_that_the_builder_takes_and_names_the_rootfs(tmp_path: Path):
    layers = SimpleNamespace(
        cache=tmp_path / "cache", root_lowers=lambda runtime: [Path("/skeleton"), Path("/base/fs")]
    )
    settings = Settings(index_url="https://a.test", extra_index_urls=("https://b.test",), url_requirements=True)
    parts = SimpleNamespace(settings=settings, layers=layers)
    message = BuildVersion(build=1, function="hello", runtime="python3.13", requirements="numpy")
    build = _Build(message, -1, parts, lambda progress: None, LayerBuilds(parts))
    request = decode(msgspec.json.encode(build._what(SimpleNamespace(staging=tmp_path / "staging"))), Request)
    assert (request.rootfs, request.python) == ("/base/fs", "/usr/bin/python3.13")
    assert (request.staging, request.archive_fd) == (str(tmp_path / "staging"), 3)
    assert (request.index_url, request.extra_index_urls) == ("https://a.test", ("https://b.test",))
    assert request.url_requirements


# --- what it takes from the builder

ENVIRONMENT, LAYER, CODE = "e" * 64, "a" * 64, "c" * 64
MANIFEST = EnvironmentManifest(
    environment=Environment(id=ENVIRONMENT, runtime="python3.11", imports=("a",)), lock="a==1\n", layers=(LAYER,)
)
TOLD = msgspec.to_builtins(MANIFEST)


class Store:
    """What the store is asked to keep."""

    def __init__(self) -> None:
        self.kept: dict[str, EnvironmentManifest] = {}
        self.codes: list[str] = []

    def put_environment(self, manifest: EnvironmentManifest) -> None:
        self.kept[manifest.environment.id] = manifest

    def adopt_code(self, staged: Path, code: str) -> None:
        self.codes.append(code)

    def manifest(self, environment: str) -> EnvironmentManifest:
        return self.kept[environment]


def adopted(done: dict[str, object], *, locked: str | None = ENVIRONMENT) -> tuple[BuildSucceeded, Store]:
    store = Store()
    parts = SimpleNamespace(settings=Settings(), layers=store)
    message = BuildVersion(build=1, function="hello", runtime="python3.11", requirements="")
    build = _Build(message, -1, parts, lambda progress: None, LayerBuilds(parts))
    build._environment = locked
    process, layers = (
        SimpleNamespace(staging=Path("/staging")),
        SimpleNamespace(layers=[LAYER], phases_ms={"install": 2.0}),
    )
    return build._adopt(done, process, layers), store


def test_what_was_made_is_kept_and_told_with_its_phases():
    built, store = adopted({"event": "done", "code": CODE, "environment": TOLD})
    assert (built.code, built.environment, built.lock) == (CODE, MANIFEST.environment, "a==1\n")
    assert store.kept == {ENVIRONMENT: MANIFEST} and store.codes == [CODE]
    assert built.phases_ms["install"] == 2.0 and "adopted" not in built.phases_ms


def test_code_without_requirements_has_no_environment():
    built, store = adopted({"event": "done", "code": CODE}, locked=None)
    assert (built.environment, built.lock, store.kept, store.codes) == (None, "", {}, [CODE])


@pytest.mark.parametrize(
    "done",
    [
        {},
        {"code": None},
        {"code": "../" + CODE[3:]},
        {"code": CODE.upper()},
        {"code": CODE, "environment": "x"},
        {"code": CODE, "environment": {}},
        {"code": CODE, "environment": {**TOLD, "layers": None}},
        {"code": CODE, "environment": {**TOLD, "layers": []}},
        {"code": CODE, "environment": {**TOLD, "layers": [LAYER, "b" * 64]}},
        {"code": CODE, "environment": {**TOLD, "environment": {**TOLD["environment"], "id": "f" * 64}}},
    ],
)
def test_what_a_builder_cannot_have_made_is_refused_and_not_kept(done: dict[str, object]):
    with pytest.raises(BuildError) as caught:
        adopted({"event": "done", **done})
    assert caught.value.kind == "internal"
