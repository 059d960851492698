"""Hostile and friendly archives: what is refused, with which words, and that nothing is written elsewhere."""

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootfs_builder import archive
from rootfs_builder.archive_tree import ArchiveTree, Bounds
from runtime.errors import BuildError

BOUNDS = Bounds(bytes_max=100_000, entries_max=50)
Member = tuple[str, bytes | None, dict[str, object]]  # name, content (None: directory), settings


@contextmanager
def descriptor_of(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def unpack(data: bytes, root: Path, bounds: Bounds = BOUNDS) -> int:
    with descriptor_of(data) as descriptor:
        return archive.unpack(descriptor, root, bounds, lambda written: None)


def make_zip(*members: Member, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as made:
        warnings.simplefilter("ignore")  # duplicate names
        for name, content, extra in members:
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            mode = int(str(extra.get("mode", 0o644)))
            kind = extra.get("kind", stat.S_IFDIR if content is None else stat.S_IFREG)
            entry.external_attr = (int(str(kind)) | mode) << 16
            entry.compress_type = method
            made.writestr(entry, content or b"")
    return out.getvalue()


def make_tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for name, content, extra in members:
            entry = tarfile.TarInfo(name)
            entry.type = extra.get("type", tarfile.DIRTYPE if content is None else tarfile.REGTYPE)  # type: ignore[assignment]
            entry.linkname = str(extra.get("link", ""))
            entry.mode = int(str(extra.get("mode", 0o644)))
            entry.size = len(content or b"")
            entry.pax_headers = extra.get("pax", {})  # type: ignore[assignment]
            made.addfile(entry, io.BytesIO(content or b""))
    return out.getvalue()


def member(name: str, content: bytes | None = b"x", **extra: object) -> Member:
    return name, content, extra


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])
Maker = Callable[..., bytes]


def refused(data: bytes, root: Path, kind: str, *words: str, bounds: Bounds = BOUNDS) -> BuildError:
    with pytest.raises(BuildError) as caught:
        unpack(data, root / "code", bounds)
    assert caught.value.kind == kind, caught.value
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert caught.value.message.isprintable()
    return caught.value


# --- what is taken ----------------------------------------------------------------------------------------


@MAKERS
def test_files_and_directories_are_written_with_plain_modes(make: Maker, tmp_path: Path):
    data = make(
        member("main.py", b"print()"),
        member("./pkg//data.bin", b"\0" * 1000),
        member("bin/run", b"#!", mode=0o7777),
        member("empty/", None, mode=0o777),
        member("secret", b"s", mode=0o600),
    )
    assert unpack(data, tmp_path / "code") == 4
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))}
    assert modes == {
        "code": 0o755,
        "code/bin": 0o755,
        "code/bin/run": 0o755,
        "code/empty": 0o755,
        "code/main.py": 0o644,
        "code/pkg": 0o755,
        "code/pkg/data.bin": 0o644,
        "code/secret": 0o644,
    }
    assert (tmp_path / "code/main.py").read_bytes() == b"print()"


@MAKERS
def test_one_directory_at_the_top_is_kept(make: Maker, tmp_path: Path):
    unpack(make(member("project/", None), member("project/main.py")), tmp_path / "code")
    assert (tmp_path / "code/project/main.py").exists()


@MAKERS
def test_names_that_are_not_ascii_are_kept(make: Maker, tmp_path: Path):
    unpack(make(member("übung/日本.py")), tmp_path / "code")
    assert (tmp_path / "code/übung/日本.py").exists()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_paths_of_all_tar_formats_are_understood(form: int, tmp_path: Path):
    name = "d" * 90 + "/" + "e" * 40 + "/" + "f" * 90 + ".py"
    unpack(make_tar(member(name, b"long"), member("short"), form=form), tmp_path / "code")
    assert (tmp_path / "code" / name).read_bytes() == b"long"
    assert (tmp_path / "code/short").exists()


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_compressed_tars_are_found_by_content(squeeze: Callable[[bytes], bytes], tmp_path: Path):
    content = os.urandom(70_000)
    unpack(squeeze(make_tar(member("a", content), member("b"))), tmp_path / "code")
    assert (tmp_path / "code/a").read_bytes() == content


def test_compressed_streams_one_after_the_other_are_joined(tmp_path: Path):
    whole = make_tar(member("a", b"1" * 3000))
    unpack(gzip.compress(whole[:1000]) + gzip.compress(whole[1000:]) + b"\0" * 700, tmp_path / "code")
    assert (tmp_path / "code/a").read_bytes() == b"1" * 3000


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar program")
def test_an_archive_of_gnu_tar_is_taken(tmp_path: Path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/main.py").write_text("1")
    data = subprocess.run(["tar", "-C", tmp_path / "in", "-c", "."], check=True, capture_output=True).stdout
    unpack(data, tmp_path / "code")
    assert (tmp_path / "code/deep/main.py").read_text() == "1"


def test_a_global_header_with_a_comment_is_taken_as_git_writes_it(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0" * 40}) as made:
        made.addfile(tarfile.TarInfo("a"))
    assert unpack(out.getvalue(), tmp_path / "code") == 1


# --- names ------------------------------------------------------------------------------------------------

BAD_NAMES = [
    ("/etc/passwd", "absolute"),
    ("//x", "absolute"),
    ("C:/x", "absolute"),
    ("c:x", "absolute"),
    ("../x", "'..'"),
    ("a/../../x", "'..'"),
    ("a/..", "'..'"),
    ("a\\b", "backslash"),
    ("..\\x", "backslash"),
    ("a\nb", "control"),
    ("a\x7fb", "control"),
    ("n" * 256, "longer than 255"),
    ("é" * 128, "longer than 255"),
    ("/".join(["d" * 200] * 21), "longer than 3072"),
    ("/".join(["d"] * 65), "64 directories"),
    (".", "name of a directory"),
]


@MAKERS
@pytest.mark.parametrize(("name", "word"), BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_bad_names_are_refused(make: Maker, name: str, word: str, tmp_path: Path):
    refused(make(member("good"), member(name)), tmp_path, "archive", "entry ", word)
    assert sorted(os.listdir(tmp_path)) == ["code"]


@MAKERS
def test_a_nul_in_a_name_hides_nothing(make: Maker, tmp_path: Path):
    data = make(member("a?b"), member("good")).replace(b"a?b", b"a\0b")
    if make is make_zip:
        refused(data, tmp_path, "archive", "control")
    else:
        refused(data, tmp_path, "archive", "neither zip nor tar")  # the checksum is wrong


def test_a_zip_name_that_is_not_utf8_is_refused(tmp_path: Path):
    refused(make_zip(member("a?b")).replace(b"a?b", b"a\xffb"), tmp_path, "archive", "not UTF-8")
    flagged = make_zip(member("aéb")).replace("aéb".encode(), b"a\xff\xfeb")
    shutil.rmtree(tmp_path / "code")
    refused(flagged, tmp_path, "archive")


def test_a_tar_name_that_is_not_utf8_is_refused(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as made:
        made.addfile(tarfile.TarInfo("a\xffb"))
    refused(out.getvalue(), tmp_path, "archive", "not UTF-8")


# --- kinds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "main.py"])
def test_symbolic_links_are_refused_wherever_they_point(target: str, tmp_path: Path):
    refused(make_zip(member("l", target.encode(), kind=stat.S_IFLNK)), tmp_path, "archive", "'l'", "symbolic link")
    shutil.rmtree(tmp_path / "code")
    data = make_tar(member("l", None, type=tarfile.SYMTYPE, link=target))
    refused(data, tmp_path, "archive", "'l'", "symbolic link")


def test_nothing_is_written_through_a_link(tmp_path: Path):
    (tmp_path / "outside").mkdir()
    data = make_tar(member("d", None, type=tarfile.SYMTYPE, link="../outside"), member("d/x"))
    refused(data, tmp_path, "archive")
    assert not os.listdir(tmp_path / "outside")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"M", "unknown type"),
    ],
)
def test_special_tar_entries_are_refused(kind: bytes, word: str, tmp_path: Path):
    refused(make_tar(member("good"), member("e", None, type=kind, link="good")), tmp_path, "archive", "'e'", word)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_special_zip_entries_are_refused(kind: int, tmp_path: Path):
    refused(make_zip(member("e", kind=kind)), tmp_path, "archive", "'e'", "neither")


@MAKERS
def test_a_file_twice_is_refused(make: Maker, tmp_path: Path):
    refused(make(member("a"), member("./a")), tmp_path, "archive", "twice")


@MAKERS
def test_a_file_that_is_also_a_directory_is_refused(make: Maker, tmp_path: Path):
    refused(make(member("a"), member("a/b")), tmp_path, "archive", "is a file")
    shutil.rmtree(tmp_path / "code")
    refused(make(member("a/b"), member("a")), tmp_path, "archive", "also a directory")


def test_a_directory_twice_is_fine(tmp_path: Path):
    assert unpack(make_tar(member("a/", None), member("a/", None), member("a/b")), tmp_path / "code") == 1


def test_an_encrypted_member_is_refused(tmp_path: Path):
    data = bytearray(make_zip(member("a")))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(bytes(data), tmp_path, "archive", "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_cannot_be_bounded_are_refused(method: int, tmp_path: Path):
    refused(make_zip(member("a"), method=method), tmp_path, "archive", "compressed with")


# --- limits -----------------------------------------------------------------------------------------------


@MAKERS
def test_too_many_entries_are_refused(make: Maker, tmp_path: Path):
    refused(make(*(member(f"f{n}", b"") for n in range(51))), tmp_path, "limit", "more than 50 entries")


@MAKERS
def test_directories_count_as_entries(make: Maker, tmp_path: Path):
    refused(make(*(member(f"d{n}/e/f", b"") for n in range(20))), tmp_path, "limit", "more than 50 entries")


@MAKERS
def test_too_many_bytes_are_refused(make: Maker, tmp_path: Path):
    exact = make(member("a", b"\0" * 60_000), member("b", b"\0" * 40_000))
    assert unpack(exact, tmp_path / "exact") == 2
    refused(make(member("a", b"\0" * 60_000), member("b", b"\0" * 40_001)), tmp_path, "limit", "100000 bytes", "'b'")


def zeros_in_deflate(mebibytes: int) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(mebibytes)) + squeeze.flush()


def test_a_zip_bomb_stops_at_the_limit_whatever_its_header_says(tmp_path: Path):
    content = zeros_in_deflate(30)
    for claimed in (30 << 20, 10):
        local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(content), claimed, 1, 0) + b"z"
        central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(content), claimed, 1, *[0] * 6)
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central) + 1, len(local) + len(content), 0)
        with pytest.raises(BuildError) as caught:
            unpack(local + content + central + b"z" + end, tmp_path / str(claimed))
        assert caught.value.kind == ("limit" if claimed > 10 else "archive")
        assert all(path.stat().st_size <= 10 for path in (tmp_path / str(claimed)).iterdir())


def test_overlapping_zip_members_are_bounded_by_the_byte_limit(tmp_path: Path):
    content = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = content.compress(bytes(90_000)) + content.flush()
    crc = zlib.crc32(bytes(90_000))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(body), 90_000, 1, 0) + b"z"
    fields = (20, 20, 0, 8, 0, 0, crc, len(body), 90_000, 1, *[0] * 6)
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + b"z"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(central), len(local) + len(body), 0)
    with pytest.raises(BuildError):
        unpack(local + body + 2 * central + end, tmp_path / "code")


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_compressed_tar_bomb_stops_at_the_limit(squeeze: Callable[[bytes], bytes], tmp_path: Path):
    refused(squeeze(make_tar(member("z", bytes(8 << 20)))), tmp_path, "limit", "100000 bytes", "'z'")
    assert not os.listdir(tmp_path / "code")


def test_bytes_are_counted_as_they_come_out(tmp_path: Path):
    with ArchiveTree(tmp_path / "code", BOUNDS, lambda written: None) as tree, pytest.raises(BuildError) as caught:
        tree.add_file(b"z", iter([bytes(60_000)] * 1000), size=10, executable=False)
    assert caught.value.kind == "limit"
    assert (tmp_path / "code/z").stat().st_size == 60_000


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(descriptor: int, chunk: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = make_zip(member("a"))
    monkeypatch.setattr(os, "write", write)
    refused(data, tmp_path, "limit", "'a'", "disk is full")


def test_bytes_after_the_end_of_a_tar_are_bounded_too(tmp_path: Path):
    refused(gzip.compress(make_tar(member("a")) + bytes(8 << 20)), tmp_path, "limit", "100000 bytes")


def test_an_extended_header_of_any_size_costs_no_memory(tmp_path: Path):
    refused(make_tar(member("a", pax={"comment": "c" * 100_000})), tmp_path, "archive", "65536")


def test_a_chain_of_extended_headers_ends_at_the_limit(tmp_path: Path):
    header = make_tar(member("a", pax={"comment": "é"}))[:1024]
    bounds = Bounds(bytes_max=1000, entries_max=1)
    refused(gzip.compress(header * 5000), tmp_path, "limit", bounds=bounds)


# --- what is no archive -----------------------------------------------------------------------------------


def test_empty_archives_are_refused(tmp_path: Path):
    for number, data in enumerate((b"", make_zip(), make_zip(member("d/", None)), make_tar(member("d/", None)))):
        (tmp_path / str(number)).mkdir()
        assert "no " in refused(data, tmp_path / str(number), "archive").message


def test_other_content_is_refused(tmp_path: Path):
    refused(b"#!/bin/sh\n" * 100, tmp_path, "archive", "neither zip nor tar")
    shutil.rmtree(tmp_path / "code")
    refused(gzip.compress(b"#!/bin/sh\n" * 100), tmp_path, "archive", "checksum")


@MAKERS
def test_a_cut_archive_is_refused(make: Maker, tmp_path: Path):
    whole = make(member("a", os.urandom(5000)), member("b", os.urandom(5000)))
    for size in range(1, 10_000, 487):
        with pytest.raises(BuildError) as caught:
            unpack(whole[:size], tmp_path / str(size))
        assert caught.value.kind == "archive"


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_cut_or_changed_compressed_data_is_refused(squeeze: Callable[[bytes], bytes], tmp_path: Path):
    whole = squeeze(make_tar(member("a", os.urandom(3000))))
    refused(whole[:-5], tmp_path, "archive", "decompress")
    shutil.rmtree(tmp_path / "code")
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    refused(bytes(changed), tmp_path, "archive")


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        (b"\xff" * 12, "archive"),
        (b"-0000000001\0", "archive"),
        (b"0000000009\0\0", "archive"),
        (b"\x80" + b"\xff" * 11, "limit"),
    ],
    ids=["negative", "minus", "nine", "huge"],
)
def test_strange_sizes_are_refused(field: bytes, kind: str, tmp_path: Path):
    block = bytearray(make_tar(member("a"))[:512])
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    refused(bytes(block) + bytes(10240), tmp_path, kind)


def test_a_pax_size_that_lies_is_refused(tmp_path: Path):
    refused(make_tar(member("a", pax={"size": "-1"})), tmp_path, "archive", "bad size")
    shutil.rmtree(tmp_path / "code")
    refused(make_tar(member("a", pax={"GNU.sparse.major": "1"})), tmp_path, "archive", "sparse")


# --- properties -------------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", "/", "\\", "é", "x" * 256, "C:"]), max_size=5).map("/".join)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
LINKS = st.sampled_from(["..", "/", "../outside", "a", "a/b"])


def unpacks_inside(data: bytes) -> None:
    """Unpack; only BuildError may come, and everything stays in the tree."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "outside").mkdir()
        try:
            unpack(data, place / "code")
        except BuildError as error:
            assert error.kind in ("archive", "limit")
        assert sorted(os.listdir(place)) == ["code", "outside"]
        assert not os.listdir(place / "outside")
        for path in (place / "code").rglob("*"):
            assert stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode)
            assert path.lstat().st_mode & 0o7022 == 0


@given(st.lists(st.tuples(NAMES, st.binary(max_size=20), KINDS, LINKS), max_size=6), st.integers(0, 0o7777))
@settings(max_examples=60, deadline=None)
def test_generated_tars_never_write_outside(entries: list[tuple[str, bytes, bytes, str]], mode: int):
    unpacks_inside(
        make_tar(*(member(name, content, type=kind, link=link, mode=mode) for name, content, kind, link in entries))
    )


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=20), st.sampled_from([0, 0o040000, 0o100000, 0o120000])), max_size=6)
)
@settings(max_examples=60, deadline=None)
def test_generated_zips_never_write_outside(entries: list[tuple[str, bytes, int]]):
    unpacks_inside(make_zip(*(member(name, content, kind=kind, mode=0o7777) for name, content, kind in entries)))


@given(st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0"]), st.binary())
@settings(max_examples=60, deadline=None)
def test_random_bytes_raise_nothing_but_build_errors(magic: bytes, rest: bytes):
    unpacks_inside(magic + rest)


@given(
    st.sampled_from(["zip", "tar", "gz", "xz"]), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=8)
)
@settings(max_examples=80, deadline=None)
def test_damaged_archives_raise_nothing_but_build_errors(form: str, damage: list[tuple[int, int]]):
    members = (member("a/b", b"content" * 20), member("c", b"\0" * 700, pax={"comment": "x"}))
    made = {"zip": make_zip, "tar": make_tar}.get(form, make_tar)(*members)
    data = bytearray({"gz": gzip.compress, "xz": lzma.compress}.get(form, bytes)(made))
    for position, value in damage:
        data[position % len(data)] = value
    unpacks_inside(bytes(data))
