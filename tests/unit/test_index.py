"""The tests' own package index, as uv sees it through the builder."""

import os
import socket
import threading
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from rootfs_builder import uv
from rootfs_builder.events import Reporter
from rootfs_builder.suites import suite_of
from runtime.errors import BuildError
from tests.index import ALL, Fault, Index
from tests.wheels import packed, packed_sdist, wheel_file

PYTHON = "/usr/bin/python3"  # uv asks it for its version, no more
PASSED = {"PATH": os.defpath, "UV_HTTP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}


def locked(place: Path, url: str, requirements: str) -> dict[str, dict[str, object]]:
    """What uv resolves: name -> package of the lock."""
    environ = uv.environment(
        {**PASSED, "HOME": str(place)}, cache=str(place / "cache"), scratch=str(place), index_url=url
    )
    (place / "in.txt").write_text(requirements)
    with open(place / "events", "wb") as events:
        tool = uv.Uv(suite_of("python3.11"), PYTHON, place, environ)
        tool.compile(place / "in.txt", place / "pylock.toml", Reporter(events.fileno()))
    return {each["name"]: each for each in tomllib.loads((place / "pylock.toml").read_text()).get("packages", [])}


def refused(place: Path, url: str, requirements: str) -> BuildError:
    with pytest.raises(BuildError) as raised:
        locked(place, url, requirements)
    return raised.value


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def offered() -> dict[str, bytes]:
    return {**packed("low", "1.0"), **packed("low", "2.0"), **packed("top", "1.0", requires=["low<2"])}


@pytest.mark.parametrize("has_json", [True, False], ids=["json", "html"])
def test_uv_resolves_from_the_pages_alone(tmp_path: Path, has_json: bool):
    with Index(offered(), has_json=has_json) as index:
        found = locked(tmp_path, index.url, "top")
        assert {name: each["version"] for name, each in found.items()} == {"top": "1.0", "low": "1.0"}
        assert found["low"]["wheels"][0]["hashes"]["sha256"] == index.sha256(wheel_file("low", "1.0"))
        assert not index.downloads
        assert index.pages == {"top": 1, "low": 1}


def test_without_metadata_uv_reads_the_wheel(tmp_path: Path):
    with Index(offered(), has_metadata=False) as index:
        assert set(locked(tmp_path, index.url, "top")) == {"top", "low"}
        assert f"/files/{wheel_file('top', '1.0')}" in {each.path for each in index.seen}


def test_a_name_in_another_spelling_is_the_same_project(tmp_path: Path):
    with Index(packed("Some.Pkg", "1.0", metadata_name="some-PKG")) as index:
        assert set(locked(tmp_path, index.url, "SOME_pkg")) == {"some-pkg"}
        assert b"Some.Pkg-1.0" in got(index.url + "Some_Pkg")  # redirected


def test_a_lie_about_a_hash_goes_into_the_lock(tmp_path: Path):
    wrong = "0" * 64
    with Index(packed("a", "1.0"), hashes={wheel_file("a", "1.0"): wrong}) as index:
        assert locked(tmp_path, index.url, "a")["a"]["wheels"][0]["hashes"]["sha256"] == wrong


def test_an_sdist_alone_is_no_wheel(tmp_path: Path):
    with Index(packed_sdist("a", "1.0")) as index:
        assert "wheel" in refused(tmp_path, index.url, "a").hint


def test_an_unknown_name_and_a_faulty_page(tmp_path: Path):
    with Index(offered()) as index:
        assert refused(tmp_path, index.url, "nothing").hint == "check the package's name"
        index.faults["low"] = Fault.NOT_FOUND
        assert "low was not found" in refused(tmp_path, index.url, "top").message
        index.faults = {ALL: Fault.ERROR}
        assert "500" in refused(tmp_path, index.url, "top").message
        index.faults.clear()
        assert set(locked(tmp_path, index.url, "top")) == {"top", "low"}


def test_an_index_that_is_down_refuses_and_comes_back(tmp_path: Path):
    with Index(offered()) as index:
        with index.down():
            error = refused(tmp_path, index.url, "top")
        assert "index_url" in error.hint
        assert set(locked(tmp_path, index.url, "top")) == {"top", "low"}


def test_credentials_are_asked_for_and_seen(tmp_path: Path):
    with Index(offered(), user="someone", password="secret-word") as index:
        assert "401 Unauthorized" in refused(tmp_path, index.url, "low").message
        assert not index.credentials_seen
        assert set(locked(tmp_path, index.url_with_credentials, "low")) == {"low"}
        assert index.credentials_seen == {"someone:secret-word"}
        assert "secret-word" not in (tmp_path / "events").read_text()


def test_downloads_are_counted_when_they_are_whole():
    file = wheel_file("low", "1.0")
    with Index(offered()) as index:
        assert got(index.file_url(file)) == index.files[file]
        index.faults[file] = Fault.CUT
        with pytest.raises(Exception, match="IncompleteRead"):
            got(index.file_url(file))
        index.faults[file] = Fault.FORBIDDEN
        with pytest.raises(urllib.error.HTTPError, match="403") as failed:
            got(index.file_url(file))
        failed.value.close()
        assert index.downloads == {file: 1}
        index.faults[file] = Fault.DAMAGE
        assert len(got(index.file_url(file))) == len(index.files[file])
        assert got(index.file_url(file)) != index.files[file]


@pytest.mark.parametrize(("cache_control", "pages"), [("no-store", 2), ("max-age=600", 1)])
def test_clients_remember_what_they_are_allowed_to(tmp_path: Path, cache_control: str, pages: int):
    with Index(offered(), cache_control=cache_control) as index:
        for _ in range(2):
            assert set(locked(tmp_path, index.url, "low")) == {"low"}
            (tmp_path / "pylock.toml").unlink()
        assert index.pages == {"low": pages}


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.STALL])
def test_what_is_not_answered_ends_with_the_index(fault: Fault):
    file = wheel_file("low", "1.0")
    with Index(offered()) as index:
        index.faults[file] = fault
        client = socket.create_connection(("127.0.0.1", index.port), timeout=20)
        answer = client.makefile("rb")
        client.sendall(f"GET /files/{file} HTTP/1.0\r\n\r\n".encode())
        index.wait_seen(f"/files/{file}")
        if fault is Fault.STALL:
            while answer.readline() != b"\r\n":
                pass
            half = len(index.files[file]) // 2
            assert answer.read(half) == index.files[file][:half]
    with client, answer:
        assert answer.read() == b""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("index")]
