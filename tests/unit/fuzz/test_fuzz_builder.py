"""What builders read: archives, wheels with their RECORD and METADATA, locks, index pages, requirements, projects."""

import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootfs_builder import (
    archive,
    environments,
    index_lock,
    index_pages,
    locks,
    mirrors,
    projects,
    requirements,
    wheels,
)
from rootfs_builder.archive_tree import Bounds
from rootfs_builder.channel import decode
from rootfs_builder.index_pages import IndexFile
from rootfs_builder.index_proxy import MapRequest, Request
from rootfs_builder.suites import SUITES
from runtime import builder_process, file_names
from runtime.errors import BuildError
from tests.unit.fuzz.fuzzing import DEEP, JSON, examples, mutations, objects, ours
from tests.unit.rootfs_builder.test_hostile_archives import make_tar, make_zip, member
from tests.wheels import wheel

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long examples
BOUNDS = Bounds(bytes_max=10_000, entries_max=20)
MEMBERS = (member("main.py", b"x = 1\n"), member("folder/é.txt", b"text" * 50), member("folder/empty", None))
ARCHIVES = (make_zip(*MEMBERS), make_tar(*MEMBERS), make_zip(*MEMBERS, method=zipfile.ZIP_STORED))
SUITE = next(iter(SUITES.values()))


@examples(150)
@given(mutations(*ARCHIVES))
def test_an_archive_is_unpacked_within_its_root_and_bounds_or_refused(data: bytes):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        root = Path(folder) / "inner" / "root"
        root.parent.mkdir()
        file.write(data)
        count = ours(lambda: archive.unpack(file.fileno(), root, BOUNDS, lambda _: None), BuildError)
        assert os.listdir(folder) == ["inner"] and os.listdir(root.parent) in ([], ["root"])
        paths = [Path(at) / name for at, _, names in os.walk(root) for name in names]
        assert all(path.is_file() and not path.is_symlink() for path in paths)
        assert sum(path.stat().st_size for path in paths) <= BOUNDS.bytes_max
        assert count is None or 0 < count <= BOUNDS.entries_max


WHEEL = wheel("a", "1.0", {"a/__init__.py": "x = 1\n"}, entry_points={"console_scripts": {"tool": "a:x"}})


def _with_member(replaced: tuple[str, bytes]) -> bytes:
    """The wheel with one of its files as it likes."""
    ending, content = replaced
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WHEEL)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            new.writestr(info, content if info.filename.endswith(ending) else old.read(info))
    return buffer.getvalue()


def _member(ending: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(WHEEL)) as found:
        return found.read(next(name for name in found.namelist() if name.endswith(ending)))


PARTS = ("RECORD", "METADATA", "WHEEL", "entry_points.txt", "__init__.py")
CHANGED = st.one_of(*(st.tuples(st.just(part), mutations(_member(part))) for part in PARTS)).map(_with_member)


@examples(150)
@given(st.one_of(mutations(WHEEL), CHANGED, CHANGED))
def test_a_wheel_is_installed_within_its_root_or_refused(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "a-1.0-py3-none-any.whl").write_bytes(data)
        root = place / "root"
        root.mkdir()
        file = place / "a-1.0-py3-none-any.whl"
        ours(lambda: wheels.install(file, root, python="/usr/bin/python3", bytes_max=100_000), BuildError)
        assert sorted(os.listdir(place)) == ["a-1.0-py3-none-any.whl", "root"]
        assert all(not (Path(at) / name).is_symlink() for at, _, names in os.walk(root) for name in names)


DIGEST = "a" * 64
HASHES = f'hashes = {{ sha256 = "{DIGEST}" }}'
PYLOCK = (
    'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1.0"\n'
    f'wheels = [{{ name = "a-1.0-py3-none-any.whl", url = "https://i/a-1.0-py3-none-any.whl", size = 5, {HASHES} }}]\n'
    f'sdist = {{ url = "https://i/a-1.0.tar.gz", {HASHES} }}\n'
).encode()
TOML_VALUES = st.sampled_from(["1", '"x"', "[1]", "{}", "[[]]", "inf", "2020-01-01", "{ url = 1 }", '"http://["'])
KEYS = st.sampled_from(["packages", "name", "version", "wheels", "sdist", "url", "hashes", "sha256", "archive", "size"])


def _odd_lock(pairs: list[tuple[str, str]]) -> bytes:
    return ("[[packages]]\n" + "".join(f"{key} = {value}\n" for key, value in dict(pairs).items())).encode()


LOCKS = st.one_of(mutations(PYLOCK), st.lists(st.tuples(KEYS, TOML_VALUES), max_size=5).map(_odd_lock))


@examples(150)
@given(LOCKS)
def test_a_lock_of_uv_is_read_or_refused(data: bytes):
    text = data.decode(errors="replace")
    for found in ours(lambda: locks.from_pylock(text, SUITE, takes_sources=True), BuildError) or ():
        assert "/" not in found.filename and len(found.sha256) == 64 and found.size >= 0


@examples(100)
@given(LOCKS)
def test_a_lock_out_of_a_box_is_mapped_or_refused(data: bytes):
    def find(url: str) -> tuple[str, IndexFile] | None:
        file = IndexFile(filename="a-1.0-py3-none-any.whl", url="https://i/a-1.0-py3-none-any.whl", sha256=DIGEST)
        return ("a", file) if url.startswith("https://i/a-1.0-py3") else None

    found = ours(lambda: index_lock.mapped(data.decode(errors="replace"), find), BuildError)
    assert found is None or "url" not in found or "https://i/a-1.0-py3-none-any.whl" in found


PAGE = (
    b'{"files": [{"filename": "a-1.0-py3-none-any.whl", "url": "../a-1.0-py3-none-any.whl", "size": 5, "yanked": "old",'
    b'"hashes": {"sha256": "' + DIGEST.encode() + b'"}, "requires-python": ">=3", "core-metadata": {"sha256": "x"}}]}'
)
HTML = (
    b'<html><base href="http://h/x/"><a href="a-1.0-py3-none-any.whl#sha256=' + DIGEST.encode() + b'" data-yanked=""'
    b' data-requires-python="&gt;3">a-1.0-py3-none-any.whl</a></html>'
)


@examples(150)
@given(st.one_of(mutations(PAGE), mutations(HTML), objects(files=st.lists(JSON, max_size=3), projects=JSON)))
def test_a_page_of_an_index_is_read_or_a_value_error(data: bytes):
    for content_type in ("application/vnd.pypi.simple.v1+json", "text/html"):
        found = ours(lambda kind=content_type: index_pages.parse(data, kind, "https://i/simple/a/"), ValueError) or []
        for each in found:
            assert file_names.is_safe(each.filename) and each.url.startswith(("http://", "https://"))
        index_pages.render_html(found)
        index_pages.render_json("a", found)
        ours(lambda kind=content_type: index_pages.projects(data, kind), ValueError)


LINES = (
    b"six==1.17.0 ; python_version > '3' \\\n    --hash=sha256:" + DIGEST.encode() + b"\n# comment\nnumpy[x]>=1,<3\n"
)


DIRECT = mutations(LINES, b"a @ https://h/a-1-py3-none-any.whl").map(lambda raw: raw.decode("latin-1"))


@examples(150)
@given(st.one_of(st.text(max_size=80), DIRECT))
def test_requirements_are_parsed_or_refused(text: str):
    for allows_urls in (False, True):
        found = ours(lambda allows=allows_urls: requirements.parse(text, allows_urls=allows), BuildError)
        if found:
            requirements.input_text(found)
            if requirements.is_lock(found):
                requirements.lock_text(found)


PROJECT = b'[project]\nname = "x"\ndependencies = ["six"]\ndynamic = []\n'


@examples(80)
@given(st.one_of(mutations(PROJECT), mutations(LINES)), st.sampled_from(["pyproject.toml", "requirements.txt"]))
def test_a_project_s_requirements_are_text_or_refused(data: bytes, name: str):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        found = ours(lambda: projects.requirements_of(Path(folder)), BuildError)
        assert found is None or isinstance(found, str)


EVENTS = (
    b'{"event":"failed","kind":"archive","message":"m","hint":"h"}\n',
    b'{"event":"progress","phase":"p","message":"m","fraction":0.5}\n',
)


@examples(100)
@given(st.one_of(mutations(*EVENTS), objects(event=st.sampled_from(sorted(builder_process._EVENTS)), message=JSON)))
def test_a_builder_s_line_is_an_event_or_a_value_error(line: bytes):
    found = ours(lambda: builder_process._event(line), ValueError, RecursionError)
    assert found is None or found["event"] in builder_process._EVENTS


@examples(80)
@given(st.one_of(mutations(b'{"index_url": "", "lock": ""}'), DEEP))
def test_a_request_to_a_builder_is_decoded_or_refused(line: bytes):
    for kind in (Request, MapRequest):
        ours(lambda kind=kind: decode(line, kind), BuildError)


@examples(80)
@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["a/__init__.py", "/x.py", "a.b/c.py", "a/b.so"]))))
def test_modules_of_any_file_names_can_be_imported_by_name(files: list[str]):
    for name in environments.importable(files):
        assert all(part.isidentifier() for part in name.split("."))


SOURCES = (
    b"deb [arch=amd64 signed-by=/k] http://h/debian bookworm main\n",
    b"Types: deb\nURIs: http://h/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k\n\n",
)


@examples(80)
@given(mutations(*SOURCES), st.sampled_from(["a.list", "a.sources"]))
def test_package_sources_of_the_host_are_read_or_left_out(data: bytes, name: str):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        ours(lambda: list(mirrors.parse(Path(folder) / name)), BuildError, UnicodeDecodeError)


@examples(60)
@given(st.text(max_size=60), st.integers(0, 3))
def test_names_of_wheels_are_understood_or_not_taken(text: str, dashes: int):
    for name in (text, f"a-1.0-{text}.whl", "-".join([text] * dashes) + ".whl"):
        file_names.is_safe(name)
        file_names.of_wheel(name)
