"""What pagurusd tells the builder."""

from pathlib import Path
from types import SimpleNamespace

import msgspec

from rootfs_builder.build import Request
from rootfs_builder.channel import decode
from runtime.builds import _Build
from runtime.config import Settings
from runtime.layer_builds import LayerBuilds
from runtime.protocol import BuildVersion


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
