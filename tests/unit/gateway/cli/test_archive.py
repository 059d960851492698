import gzip
import io
import os
import tarfile
import zipfile

import pytest

from gateway.cli.archive import pack
from runtime.errors import BuildError


@pytest.fixture
def folder(tmp_path):
    code = tmp_path / "code"
    (code / "package" / "__pycache__").mkdir(parents=True)
    (code / ".git").mkdir()
    (code / "empty").mkdir()
    for name in ("main.py", "package/part.py", "package/__pycache__/part.pyc", ".git/HEAD", "old.pyc", ".hidden"):
        (code / name).write_text(name)
    (code / "tool.sh").write_text("#!")
    (code / "tool.sh").chmod(0o777)
    (code / "link.py").symlink_to("main.py")
    return code


def members(packed):
    with tarfile.open(fileobj=io.BytesIO(packed.data)) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_a_folder_is_packed_without_what_is_no_code(folder):
    packed = pack(folder)
    assert sorted(members(packed)) == [
        ".hidden",
        "empty",
        "link.py",
        "main.py",
        "package",
        "package/part.py",
        "tool.sh",
    ]
    assert packed.files == 5


def test_the_same_files_give_the_same_bytes(folder):
    first = pack(folder).data
    os.utime(folder / "main.py", (1, 1))
    (folder / "package" / "part.py").chmod(0o600)
    assert pack(folder).data == first
    (folder / "main.py").write_text("changed")
    assert pack(folder).data != first


def test_owner_time_and_modes_are_plain(folder):
    entries = members(pack(folder))
    assert {(e.uid, e.gid, e.mtime, e.uname) for e in entries.values()} == {(0, 0, 0, "")}
    assert (entries["main.py"].mode, entries["tool.sh"].mode) == (0o644, 0o755)
    assert entries["link.py"].linkname == "main.py"


def test_the_compressor_carries_no_time(folder):
    assert pack(folder).data[4:8] == b"\0\0\0\0"


def test_a_single_file_becomes_main(tmp_path):
    (tmp_path / "greet.py").write_text("def main(param): ...")
    assert list(members(pack(tmp_path / "greet.py"))) == ["main.py"]


def test_archives_are_taken_as_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("main.py", "x")
    packed = pack(tmp_path / "code.zip")
    assert packed.data == (tmp_path / "code.zip").read_bytes()
    assert packed.filename == "code.zip"
    assert packed.files is None


def test_what_cannot_be_packed_is_named(tmp_path):
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "fake.zip").write_text("x")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "special").mkdir()
    os.mkfifo(tmp_path / "special" / "pipe")
    for name in ("absent", "text.txt", "fake.zip", "hollow", "special"):
        with pytest.raises(BuildError, match=name) as caught:
            pack(tmp_path / name)
        assert caught.value.kind == "archive"


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text("x")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(BuildError, match="Permission denied"):
        pack(tmp_path)


def test_the_archive_is_a_gzip(folder):
    assert gzip.decompress(pack(folder).data)
