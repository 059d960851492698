"""The one result of a box: what a hostile build may leave there, and what is taken. No box is needed for that."""

import os
import pwd
from pathlib import Path

import pytest

from runtime import box_results

WHEEL = "demo-1.0-py3-none-any.whl"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work/out").mkdir(parents=True)
    (tmp_path / "into").mkdir()
    return tmp_path / "work"


def take(work: Path, *, bytes_max: int = 100, reason: str = "") -> str:
    directory = os.open(work, os.O_PATH)
    into = os.open(work.parent / "into", os.O_RDONLY)
    target = box_results.file_in(into, pwd.getpwuid(os.getuid()).pw_name)
    try:
        return box_results._take(directory, ".whl", bytes_max, lambda name: reason, target)
    finally:
        os.close(directory)
        os.close(into)


def test_the_one_file_is_copied(work: Path):
    (work / "out" / WHEEL).write_bytes(b"x" * 100)
    (work / "out/.gitignore").write_text("*")
    (work / "out/demo.egg-info").mkdir()
    assert take(work) == WHEEL
    copy = work.parent / "into" / WHEEL
    assert copy.read_bytes() == b"x" * 100
    assert copy.stat().st_mode & 0o7777 == 0o644


def make(path: Path, kind: str) -> None:
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    elif kind == "link to a directory":
        path.symlink_to("/etc")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "large":
        path.write_bytes(b"x" * 101)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nothing", "0 files '*.whl' instead of one"),
        ("symlink", "no regular file"),
        ("link to a directory", "no regular file"),
        ("pipe", "no regular file"),
        ("directory", "no regular file"),
        ("sparse", "the limit is 100"),
        ("large", "101 bytes, the limit is 100"),
    ],
)
def test_what_is_no_regular_file_of_bounded_size_is_refused(work: Path, kind: str, words: str):
    make(work / "out" / WHEEL, kind)
    with pytest.raises(box_results._RefusedError) as refused:
        take(work)
    assert words in str(refused.value)
    assert not os.listdir(work.parent / "into")


def test_two_or_very_many_files_are_refused(work: Path):
    for number in range(2):
        (work / "out" / f"demo-{number}-py3-none-any.whl").touch()
    with pytest.raises(box_results._RefusedError, match="2 files"):
        take(work)
    for number in range(box_results.ENTRIES_MAX):
        (work / "out" / f"{number}").touch()
    with pytest.raises(box_results._RefusedError, match="more than 64"):
        take(work)


def test_a_name_that_is_not_wanted_is_refused_before_anything_is_copied(work: Path):
    (work / "out" / WHEEL).touch()
    with pytest.raises(box_results._RefusedError, match="another version"):
        take(work, reason="another version")
    assert not os.listdir(work.parent / "into")


@pytest.mark.parametrize("kind", ["symlink", "link to a directory", "pipe", "nothing"])
def test_an_output_directory_that_is_none_is_refused(work: Path, kind: str):
    (work / "out").rmdir()
    make(work / "out", kind)
    with pytest.raises(box_results._RefusedError, match="output directory"):
        take(work)


def test_a_file_that_is_there_already_is_not_written_over(work: Path):
    (work / "out" / WHEEL).touch()
    (work.parent / "into" / WHEEL).symlink_to(work.parent / "elsewhere")
    with pytest.raises(FileExistsError):
        take(work)
    assert not (work.parent / "elsewhere").exists()
