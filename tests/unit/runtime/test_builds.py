"""What pagurusd tells the builder."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec

from rootfs_builder.build import Request
from runtime.builds import _Build
from runtime.config import Settings
from runtime.protocol import BuildVersion


def test_the_request_is_one_that_the_builder_takes_and_names_the_rootfs(tmp_path: Path):
    layers = SimpleNamespace(
        cache=tmp_path / "cache", root_lowers=lambda runtime: [Path("/skeleton"), Path("/base/fs")]
    )
    message = BuildVersion(build=1, function="hello", runtime="python3.13", requirements="numpy")
    build = _Build(message, -1, SimpleNamespace(settings=Settings(), layers=layers), lambda progress: None, {})
    request = msgspec.json.decode(build._first_line(tmp_path, 3), type=Request)
    assert (request.rootfs, request.python) == ("/base/fs", "/usr/bin/python3.13")
    assert json.loads(build._first_line(tmp_path, 3))["archive_fd"] == 3
