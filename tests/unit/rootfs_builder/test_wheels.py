"""Wheels: honest ones are installed as pip would, hostile ones are refused in words and write nothing elsewhere."""

import csv
import functools
import hashlib
import io
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rootfs_builder import wheels
from rootfs_builder.wheels import Refused
from runtime.errors import BuildError
from tests.wheels import metadata, record_hash, wheel, wheel_file
from tests.zips import Member, device, directory, symlink, zeros, zip_bytes

PYTHON = "/usr/bin/python3.11"
BYTES_MAX = 1 << 20
BINARY = bytes(range(256))
Changes = list[tuple[int, int]]  # where -> what
INFO = "a-1.0.dist-info"
# What one wheel is installed to, besides its own files.
BOOKKEEPING = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER")}


def install(place: Path, data: bytes, name: str = "a", version: str = "1.0", *, bytes_max: int = BYTES_MAX) -> Path:
    """Install into place/root, which is given back. Nothing else may be written in place, however it ends."""
    file, root = place / wheel_file(name, version), place / "root"
    file.write_bytes(data)
    root.mkdir()
    size = None
    try:
        size = wheels.install(file, root, python=PYTHON, bytes_max=bytes_max)
    finally:
        assert {path.name for path in place.iterdir()} == {file.name, "root"}
        for path in root.rglob("*"):
            assert not path.is_symlink() and (path.is_file() or path.is_dir())
        if size is not None:
            with zipfile.ZipFile(file) as opened:
                assert size == sum(member.file_size for member in opened.infolist())
    return root


def refused(place: Path, data: bytes, name: str = "a", version: str = "1.0", **limits: int) -> str:
    """The message, without the file's name."""
    with pytest.raises(BuildError) as caught:
        install(place, data, name, version, **limits)
    error = caught.value
    assert isinstance(error, Refused) and error.kind == "install" and error.hint
    start = f"wheel {wheel_file(name, version)} "
    assert error.message.startswith(start) and error.message.isprintable()
    return error.message.removeprefix(start)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def executables(root: Path) -> set[str]:
    return {file for file in files(root) if (root / file).stat().st_mode & stat.S_IXUSR}


# --- honest wheels


def test_packages_are_installed_with_their_bookkeeping(tmp_path: Path):
    root = install(tmp_path, wheel("a", "1.0", {"a/__init__.py": "x = 1\n", "a/data.bin": BINARY, "b.py": ""}))
    assert files(root) == {"a/__init__.py", "a/data.bin", "b.py"} | BOOKKEEPING
    assert (root / "a/__init__.py").read_text() == "x = 1\n"
    assert (root / "a/data.bin").read_bytes() == BINARY
    assert (root / INFO / "INSTALLER").read_text() == "pagurus\n"


def test_record_lists_what_is_there_with_its_hash_and_size(tmp_path: Path):
    entry_points = {"console_scripts": {"tool": "a:main"}}
    root = install(tmp_path, wheel("a", "1.0", entry_points=entry_points, data={"scripts/x": "#!python\n"}))
    rows = list(csv.reader((root / INFO / "RECORD").read_text().splitlines()))
    found = {path: (digest, size) for path, digest, size in rows}
    assert len(rows) == len(found) and set(found) == files(root)
    assert found.pop(f"{INFO}/RECORD") == ("", "")
    for path, told in found.items():
        content = (root / path).read_bytes()
        assert told == (record_hash(content), str(len(content)))


def test_entry_points_become_scripts_that_name_the_runtime_s_interpreter(tmp_path: Path):
    entry_points = {
        "console_scripts": {"tool": "a.cli:main"},
        "gui_scripts": {"window": "a:gui"},
        "other": {"x": "a:y"},
    }
    root = install(tmp_path, wheel("a", "1.0", entry_points=entry_points))
    assert {file for file in files(root) if file.startswith("bin/")} == {"bin/tool", "bin/window"}
    first, *rest = (root / "bin/tool").read_text().splitlines()
    assert first == f"#!{PYTHON}" and "from a.cli import main" in rest
    assert (root / "bin/window").read_text().startswith(f"#!{PYTHON}\n")
    assert executables(root) == {"bin/tool", "bin/window"}


def test_data_goes_where_its_scheme_says(tmp_path: Path):
    data = {
        "purelib/pure.py": "1",
        "platlib/plat.py": "2",
        "headers/a.h": "3",
        "data/share/a/x": "4",
    }
    scripts = {"run": b"#!python\nprint(1)\n", "window": b"#!pythonw\n", "plain": b"#!/bin/sh\n"}
    members = [Member(f"a-1.0.data/scripts/{name}", text, stat.S_IFREG | 0o755) for name, text in scripts.items()]
    root = install(tmp_path, wheel("a", "1.0", {}, data=data, raw_members=members))
    assert (
        files(root)
        == {
            "pure.py",
            "plat.py",
            "bin/run",
            "bin/window",
            "bin/plain",
            "include/a/a.h",
            "share/a/x",
        }
        | BOOKKEEPING
    )
    assert (root / "bin/run").read_text() == f"#!{PYTHON}\nprint(1)\n"
    assert (root / "bin/window").read_text() == f"#!{PYTHON}\n"
    assert (root / "bin/plain").read_text() == "#!/bin/sh\n"
    assert executables(root) == {"bin/run", "bin/window", "bin/plain"}


@pytest.mark.parametrize("is_pure", [True, False])
def test_both_kinds_of_roots_are_one_here(tmp_path: Path, is_pure: bool):
    assert "a/__init__.py" in files(install(tmp_path, wheel("a", "1.0", root_is_purelib=is_pure)))


def test_executables_stay_so_and_nothing_is_made_special(tmp_path: Path):
    members = [
        Member("a/run", b"1", mode=stat.S_IFREG | 0o755),
        Member("a/root", b"2", mode=stat.S_IFREG | 0o6755),
        Member("a/none", b"3", mode=0),
        Member("a/secret", b"4", mode=stat.S_IFREG | 0o400),
    ]
    root = install(tmp_path, wheel("a", "1.0", raw_members=members))
    assert executables(root) == {"a/run", "a/root"}
    assert not any((root / file).stat().st_mode & 0o7000 for file in files(root))


def test_folders_signatures_and_large_files_are_no_trouble(tmp_path: Path):
    members = [directory("a/empty/"), Member(f"{INFO}/RECORD.jws", b"{}", recorded=False)]
    big = os.urandom(1 << 10) * (1 << 9)
    root = install(tmp_path, wheel("a", "1.0", {"a/big": big}, raw_members=members))
    assert (root / "a/big").read_bytes() == big
    assert f"{INFO}/RECORD.jws" not in files(root)


@pytest.mark.parametrize(
    ("name", "told"),
    [("Foo_Bar", "foo-bar"), ("foo_bar", "Foo.Bar"), ("FOO", "foo"), ("a.b", "A_B"), ("a_b_c", "a--b..c")],
)
def test_spellings_of_one_name_are_one_name(tmp_path: Path, name: str, told: str):
    assert files(install(tmp_path, wheel(name, "1.0", metadata_name=told), name))


@pytest.mark.parametrize(("version", "told"), [("1.0", "1.0.0"), ("1.0rc1", "1.0.RC1"), ("2", "v2")])
def test_spellings_of_one_version_are_one_version(tmp_path: Path, version: str, told: str):
    assert files(install(tmp_path, wheel("a", version, metadata_version=told), version=version))


def test_byte_code_that_the_wheel_brings_is_left_out(tmp_path: Path):
    """Unchecked byte code would run whatever the source says."""
    files_ = {"a/x.py": "", "a/__pycache__/x.cpython-311.pyc": b"code", "__pycache__/y.pyc": b"code", "z.pyc": b"code"}
    root = install(tmp_path, wheel("a", "1.0", files_))
    assert files(root) == {"a/x.py", "z.pyc"} | BOOKKEEPING
    assert "__pycache__" not in (root / INFO / "RECORD").read_text()


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        "../outside.py",
        "a/../../outside.py",
        "a/..",
        "/outside.py",
        "//outside.py",
        "./a.py",
        "a/./b.py",
        "a//b.py",
        "",
        "/",
        "a\\..\\b.py",
        "..\\outside.py",
        "a\nb.py",
        "a\x1b[2J.py",
        "a\u202eb.py",
        "../outside/",
        "a-1.0.data/scripts/../../../outside",
        "a-1.0.data/purelib//etc/outside",
        "x" * 1001,
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, path: str, recorded: bool):
    said = refused(tmp_path, wheel("a", "1.0", raw_members=[Member(path, b"x", recorded=recorded)]))
    assert said.startswith("has the path ") and len(said) < 200
    assert files(tmp_path / "root") == set(), "it is seen before anything is written"


def test_a_path_with_a_nul_ends_there_for_all_or_is_refused(tmp_path: Path):
    said = refused(tmp_path, wheel("a", "1.0", {}, raw_members=[Member("a.py\0/../../../outside.py", b"x")]))
    assert "a.py" in said


def test_a_path_that_two_headers_tell_differently_is_refused(tmp_path: Path):
    said = refused(tmp_path, wheel("a", "1.0", raw_members=[Member("a/b.py", b"x", local_path="../../b.py")]))
    assert said.startswith("cannot be read: File name in directory")


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (symlink("a/link", "/etc/passwd"), "has 'a/link', which is a link or no file"),
        (device("a/null"), "has 'a/null', which is a link or no file"),
        (Member("a/pipe", mode=stat.S_IFIFO | 0o644), "has 'a/pipe', which is a link or no file"),
        (Member("a/socket", mode=stat.S_IFSOCK | 0o644), "has 'a/socket', which is a link or no file"),
        (Member("a/secret", b"x", flags=1), "has 'a/secret', which is encrypted"),
        (Member("a/__init__.py", b"other"), "has 'a/__init__.py' twice"),
        (Member("a/__init__.py/x.py", b"x"), "has a file where it needs a folder"),
        (Member("a", b"x"), "has two files of one name"),
        (Member("a-1.0.data/purelib/a/__init__.py", b"x"), "has two files of one name"),
        (Member("a-1.0.data/what/x", b"x"), "cannot be read: "),
        (Member("a-1.0.data/x", b"x"), ""),
        (Member("b-1.0.dist-info/METADATA", b"x"), "cannot be read: Wheel doesn't contain exactly one .dist-info"),
        (Member("a-1.0.data/purelib/b-1.0.dist-info/RECORD", b""), "has more than one .dist-info"),
        (Member("a-1.0.data/data/b-1.0.dist-info/x", b""), "has more than one .dist-info"),
        (Member(f"a-1.0.data/purelib/{INFO}/RECORD", b"x"), "has two files of one name"),
        (Member(f"a-1.0.data/purelib/{INFO}/INSTALLER", b"x"), "has two files of one name"),
    ],
)
def test_members_that_no_honest_wheel_has_are_refused(tmp_path: Path, member: Member, words: str):
    assert refused(tmp_path, wheel("a", "1.0", raw_members=[member])).startswith(words)


@pytest.mark.parametrize("script", ["a/b", "../outside", "/outside", "..", ".", "a\0b", "x" * 300])
@pytest.mark.parametrize("group", ["console_scripts", "gui_scripts"])
def test_scripts_whose_names_are_paths_are_refused(tmp_path: Path, script: str, group: str):
    with pytest.raises(BuildError):
        install(tmp_path, wheel("a", "1.0", entry_points={group: {script: "a:main"}}))


@pytest.mark.parametrize(
    "text",
    [
        "no section\n",
        "[console_scripts]\nx = a:b\nx = a:c\n",
        "[console_scripts]\n[console_scripts]\n",
        "[console_scripts]\nx\n",
        "[console_scripts]\nx = not an object\n",
        "[console_scripts]\nx = a:b\n  \x00\n",
        b"\xff\xfe",
    ],
)
def test_entry_points_that_cannot_be_read_are_refused(tmp_path: Path, text: str | bytes):
    content = text if isinstance(text, bytes) else text.encode()
    assert refused(tmp_path, wheel("a", "1.0", raw_members=[Member(f"{INFO}/entry_points.txt", content)]))


# --- RECORD


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("absent", "is malformed: "),
        ("empty", "has 'a/__init__.py', which its RECORD does not list"),
        ("missing-entry", "has 'a/__init__.py', which its RECORD does not list"),
        ("wrong-hash", "has 'a/__init__.py', which is not as its RECORD says"),
        ("wrong-size", "has 'a/__init__.py', which is not as its RECORD says"),
        ("no-hash", "gives no SHA-256 of 'a/__init__.py' in its RECORD"),
        ("weak-hash", "gives no SHA-256 of 'a/__init__.py' in its RECORD"),
        ("extra-entry", "lacks 'not/there.py', which its RECORD lists"),
        ("outside-entry", "lacks '../outside.py', which its RECORD lists"),
        ("malformed", ""),
    ],
)
def test_a_record_that_is_not_of_the_files_is_refused(tmp_path: Path, record: Any, words: str):
    said = refused(tmp_path, wheel("a", "1.0", record=record))
    assert said.startswith(words)


@pytest.mark.parametrize(
    "record",
    [
        b"a/__init__.py,sha256=%s,x\n",
        b"a/__init__.py,sha256=%s,-1\n",
        b"a/__init__.py\n",
        b"a/__init__.py,sha256=%s,1,2,3\n",
        b"x" * 200_000,
        b'"' + b"x" * 200_000,
        b"\xff\xfe,,\n",
    ],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, record: bytes):
    assert refused(tmp_path, wheel("a", "1.0", record="absent", raw_members=[Member(f"{INFO}/RECORD", record)]))


def test_content_is_compared_also_of_scripts_which_are_written_otherwise(tmp_path: Path):
    def data(script: str) -> bytes:
        return wheel("a", "1.0", {}, data={"scripts/run": script})

    one, other = data("#!python\nprint(1)\n"), data("#!python\nprint(2)\n")
    with zipfile.ZipFile(io.BytesIO(one)) as honest, zipfile.ZipFile(io.BytesIO(other)) as changed:
        record = honest.read(f"{INFO}/RECORD")
        members = [Member(path, changed.read(path)) for path in changed.namelist() if path != f"{INFO}/RECORD"]
    said = refused(tmp_path, zip_bytes([*members, Member(f"{INFO}/RECORD", record)]))
    assert said == "has 'a-1.0.data/scripts/run', which is not as its RECORD says"


# --- what it says of itself


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metadata_name": "b"}, "says that it is 'b'"),
        ({"metadata_name": ""}, ""),
        ({"metadata_version": "2.0"}, "says that it is of version '2.0'"),
        ({"metadata_version": "not a version"}, "says that it is of version 'not a version'"),
        ({"dist_info": "b-1.0"}, "cannot be read: Wheel .dist-info directory doesn't match"),
        ({"omitted": ["WHEEL"]}, "is malformed: "),
        ({"omitted": ["METADATA"]}, "is malformed: "),
        ({"wheel_version": "2.0"}, "cannot be read: "),
        ({"wheel_version": "x"}, ""),
    ],
)
def test_a_wheel_that_says_what_it_is_not_is_refused(tmp_path: Path, changes: dict[str, Any], words: str):
    if changes.get("metadata_name") == "":
        text = metadata("", "1.0")
        changes = {"omitted": ["METADATA"], "raw_members": [Member(f"{INFO}/METADATA", text.encode())]}
        words = "says that it is ''"
    assert refused(tmp_path, wheel("a", "1.0", **changes)).startswith(words)


def test_words_of_a_wheel_are_cut_and_made_printable(tmp_path: Path):
    said = refused(tmp_path, wheel("a", "1.0", metadata_name="\x1b[31m" + "b" * 5000))
    assert said.startswith("says that it is '?[31mbbb") and said.endswith("...'") and len(said) < 200


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"Root-Is-Purelib: true\n"])
def test_a_description_that_cannot_be_read_is_refused(tmp_path: Path, text: bytes):
    member = Member(f"{INFO}/WHEEL", text)
    assert refused(tmp_path, wheel("a", "1.0", omitted=["WHEEL"], raw_members=[member]))


@pytest.mark.parametrize("name", ["METADATA", "WHEEL", "entry_points.txt"])
def test_descriptions_that_nobody_could_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(wheels, "DESCRIPTION_BYTES_MAX", 1000)
    texts = {"METADATA": metadata("a", "1.0") + "\n", "WHEEL": "Wheel-Version: 1.0\n", "entry_points.txt": "[x]\n"}
    member = Member(f"{INFO}/{name}", (texts[name] + "x" * 1000).encode())
    data = wheel("a", "1.0", omitted=[name], raw_members=[member])
    assert refused(tmp_path, data) == f"has more {name} than one could read"


def test_a_record_that_nobody_could_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wheels, "DESCRIPTION_BYTES_MAX", 1000)
    data = wheel("a", "1.0", {f"a/{number}": "" for number in range(20)})
    assert refused(tmp_path, data) == "has more RECORD than one could read"


# --- sizes


def test_a_bomb_is_seen_by_what_its_headers_tell(tmp_path: Path):
    with pytest.raises(BuildError, match="unpacks to more than 1 MiB") as caught:
        install(tmp_path, wheel("a", "1.0", raw_members=[zeros("a/bomb", 1 << 30)]))
    assert caught.value.kind == "limit" and "environment_bytes" in caught.value.hint
    assert files(tmp_path / "root") == set()


def test_many_small_files_count_together(tmp_path: Path):
    data = wheel("a", "1.0", {f"a/{number}": b"x" * 1000 for number in range(100)})
    with pytest.raises(BuildError, match="unpacks to more than"):
        install(tmp_path, data, bytes_max=100_000)


def test_a_bomb_that_tells_a_small_size_is_read_to_that_size_only(tmp_path: Path):
    assert refused(tmp_path, wheel("a", "1.0", raw_members=[zeros("a/bomb", 1 << 30, claimed=100)]))
    assert sum((tmp_path / "root" / file).stat().st_size for file in files(tmp_path / "root")) < 10_000


def test_a_size_that_is_less_than_the_content_is_refused(tmp_path: Path):
    assert refused(tmp_path, wheel("a", "1.0", raw_members=[Member("a/x", b"x" * 100, size=2)]))


def test_members_that_share_their_data_count_each(tmp_path: Path):
    """Overlapping members: a directory that names one stored megabyte many times."""
    content = bytes(1 << 20)
    data = bytearray(wheel("a", "1.0", {f"a/{number:02}": content if number == 0 else b"" for number in range(50)}))
    first = zipfile.ZipFile(io.BytesIO(data)).getinfo("a/00")
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        at = opened.start_dir
    while data[at : at + 4] == b"PK\x01\x02":
        name_bytes = int.from_bytes(data[at + 28 : at + 30], "little")
        if data[at + 46 : at + 48] == b"a/":
            data[at + 16 : at + 28] = (
                first.CRC.to_bytes(4, "little")
                + first.compress_size.to_bytes(4, "little")
                + (len(content).to_bytes(4, "little"))
            )
            data[at + 42 : at + 46] = first.header_offset.to_bytes(4, "little")
        at += 46 + name_bytes
    with pytest.raises(BuildError, match="unpacks to more than 10 MiB"):
        install(tmp_path, bytes(data), bytes_max=10 << 20)
    assert files(tmp_path / "root") == set()


def test_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wheels, "ENTRIES_MAX", 10)
    assert refused(tmp_path, wheel("a", "1.0", {f"a/{number}": "" for number in range(10)})).endswith("the limit is 10")


def test_a_count_that_lies_changes_nothing(tmp_path: Path):
    assert "a/__init__.py" in files(install(tmp_path, wheel("a", "1.0", claimed_count=1)))


# --- zips


HONEST = {"a/__init__.py": "x = 1\n", "a/data": b"\0" * 300}


@functools.cache
def honest() -> bytes:
    return wheel("a", "1.0", HONEST, entry_points={"console_scripts": {"tool": "a:main"}})


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"not a zip" * 100, honest()[:-1], honest()[: len(honest()) // 2], zip_bytes([])],
    ids=["empty", "short", "text", "one byte less", "half", "no member"],
)
def test_what_is_no_whole_zip_is_refused(tmp_path: Path, data: bytes):
    assert refused(tmp_path, data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_ways_of_packing_that_need_much_memory_are_refused(tmp_path: Path, method: int):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(honest())) as source, zipfile.ZipFile(buffer, "w", method) as packed:
        for path in source.namelist():
            packed.writestr(path, source.read(path))
    assert refused(tmp_path, buffer.getvalue()) == "has 'a/__init__.py', which is packed in an unusual way"


def test_a_name_that_is_no_wheel_s_is_refused(tmp_path: Path):
    (tmp_path / "a.whl").write_bytes(honest())
    (tmp_path / "root").mkdir()
    with pytest.raises(Refused):
        wheels.install(tmp_path / "a.whl", tmp_path / "root", python=PYTHON, bytes_max=BYTES_MAX)


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_wheel(tmp_path: Path):
    (tmp_path / wheel_file("a", "1.0")).write_bytes(honest())
    with pytest.raises(BuildError) as caught:
        wheels.install(tmp_path / wheel_file("a", "1.0"), Path("/proc/1/nowhere"), python=PYTHON, bytes_max=BYTES_MAX)
    assert not isinstance(caught.value, Refused) and caught.value.kind == "internal"


@functools.cache
def installed() -> dict[str, str]:
    """Path -> digest of what the honest wheel is installed to."""
    with tempfile.TemporaryDirectory() as place:
        return digests(install(Path(place), honest()))


def digests(root: Path) -> dict[str, str]:
    return {file: hashlib.sha256((root / file).read_bytes()).hexdigest() for file in files(root)}


def flipped(changes: Changes) -> bytes:
    data = bytearray(honest())
    for at, change in changes:
        data[at % len(data)] ^= change
    return bytes(data)


def with_lengths(changes: Changes) -> bytes:
    """Whole fields of the headers changed, where lengths and offsets are."""
    data = bytearray(honest())
    starts = [at for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for at in _all(data, mark)]
    for at, value in changes:
        start = starts[at % len(starts)] + 4 + at // len(starts) % 40
        data[start : start + 2] = value.to_bytes(2, "little")
    return bytes(data)


def _all(data: bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def installs_exactly_or_refuses(damage: Callable[[Changes], bytes], changes: Changes) -> None:
    with tempfile.TemporaryDirectory() as place:
        try:
            root = install(Path(place), damage(changes))
        except BuildError:
            return
        assert digests(root) == installed()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_wheel_with_turned_bits_is_installed_as_it_was_or_refused(changes: Changes):
    installs_exactly_or_refuses(flipped, changes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 0xFFFF)), min_size=1, max_size=3))
@example([(0, 0xFFFF)])
def test_a_wheel_with_other_lengths_and_offsets_is_installed_as_it_was_or_refused(changes: Changes):
    installs_exactly_or_refuses(with_lengths, changes)
