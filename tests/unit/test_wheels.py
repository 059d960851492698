"""The tests' own wheels: what is honest is so, and each lie is there."""

import configparser
import csv
import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import wheels
from tests.zips import Member, directory, symlink, zeros, zip_bytes


def opened(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


def rows(data: bytes) -> dict[str, tuple[str, str]]:
    found = opened(data)
    record = next(name for name in found.namelist() if name.endswith("/RECORD"))
    return {row[0]: (row[1], row[2]) for row in csv.reader(found.read(record).decode().splitlines())}


def test_the_same_arguments_give_the_same_bytes():
    assert wheels.wheel("a", "1.0", requires=["b"]) == wheels.wheel("a", "1.0", requires=["b"])
    for backend in ("in-tree", "setuptools"):
        assert wheels.sdist("a", "1.0", backend=backend) == wheels.sdist("a", "1.0", backend=backend)


def test_an_honest_record_has_each_file_with_its_hash_and_size():
    data = wheels.wheel("a-b", "1.0", {"a,b.py": "x = 1\n"}, data={"scripts/tool": "#!python\n"})
    found = opened(data)
    assert found.testzip() is None
    for path, (digest, size) in rows(data).items():
        if not path.endswith("/RECORD"):
            assert (digest, int(size)) == (wheels.record_hash(found.read(path)), len(found.read(path)))
    assert set(rows(data)) == set(found.namelist())
    assert "a_b-1.0.data/scripts/tool" in found.namelist()


@pytest.mark.parametrize(
    ("record", "differing"),
    [
        ("missing-entry", {"a/__init__.py"}),
        ("wrong-hash", {"a/__init__.py"}),
        ("wrong-size", {"a/__init__.py"}),
        ("no-hash", {"a/__init__.py"}),
        ("weak-hash", {"a/__init__.py"}),
        ("extra-entry", {"not/there.py"}),
        ("outside-entry", {"../outside.py"}),
    ],
)
def test_each_lying_record_lies_in_one_row(record: wheels.Record, differing: set[str]):
    honest, lying = rows(wheels.wheel("a", "1.0")), rows(wheels.wheel("a", "1.0", record=record))
    assert {path for path in honest | lying if honest.get(path) != lying.get(path)} == differing


def test_what_is_told_can_differ_from_the_file_s_name():
    found = opened(
        wheels.wheel("a", "1.0", metadata_name="b", metadata_version="2", dist_info="A.A-1.0", omitted=["WHEEL"])
    )
    assert found.read("A.A-1.0.dist-info/METADATA") == b"Metadata-Version: 2.1\nName: b\nVersion: 2\n"
    assert "A.A-1.0.dist-info/WHEEL" not in found.namelist()


def test_entry_points_are_written():
    parser = configparser.ConfigParser()
    data = wheels.wheel("a", "1.0", entry_points={"console_scripts": {"tool": "a:main"}, "g": {"x": "a"}})
    parser.read_string(opened(data).read("a-1.0.dist-info/entry_points.txt").decode())
    assert (parser["console_scripts"]["tool"], parser["g"]["x"]) == ("a:main", "a")


def test_hostile_members_are_as_they_are_given():
    members = [Member("../up.py"), Member("/etc/x"), symlink("link", "/etc/passwd"), Member("x"), Member("x", b"2")]
    found = opened(wheels.wheel("a", "1.0", raw_members=[*members, directory("d"), Member("y", local_path="z")]))
    assert found.namelist()[3:-1] == ["../up.py", "/etc/x", "link", "x", "x", "d/", "y"]
    assert stat.S_ISLNK(found.getinfo("link").external_attr >> 16)
    with pytest.raises(zipfile.BadZipFile):
        found.read("y")


def test_a_bomb_is_small_and_unpacks_to_what_it_says():
    data = zip_bytes([zeros("z", 32 << 20)])
    assert len(data) < 64 << 10
    assert opened(data).testzip() is None
    assert opened(data).getinfo("z").file_size == 32 << 20
    assert opened(zip_bytes([zeros("z")])).getinfo("z").file_size == 1 << 30
    assert opened(zip_bytes([zeros("z", claimed=10)])).getinfo("z").file_size == 10


def test_headers_can_lie_about_sizes_and_counts():
    found = opened(zip_bytes([Member("a", b"long", size=2, crc=1)]))
    assert (found.getinfo("a").file_size, found.getinfo("a").CRC) == (2, 1)
    assert zip_bytes([Member("a")], claimed_count=7)[-22 + 10 : -22 + 12] == b"\x07\x00"


def test_the_ready_wheel_of_an_sdist_comes_out_of_its_backend(tmp_path: Path):
    data = wheels.sdist("a-b", "1.0", {"m.py": ""}, on_build="open('built', 'w').close()")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extraction_filter = lambda member, _: member
        tar.extractall(tmp_path)
    code = "import backend; print(backend.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "a_b-1.0", capture_output=True, check=True)
    assert built.stdout.decode().strip() == wheels.wheel_file("a-b", "1.0")
    assert (tmp_path / "a_b-1.0/a_b-1.0-py3-none-any.whl").read_bytes() == wheels.wheel("a-b", "1.0", {"m.py": ""})
    assert (tmp_path / "a_b-1.0/built").exists()
