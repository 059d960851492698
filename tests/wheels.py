"""Wheels and source distributions for tests, honest and hostile, as bytes. The same arguments give the same bytes.

`wheel()` and `sdist()` give the file, `wheel_file()` and `sdist_file()` its usual name, `packed()` both, as
tests/index.py takes them: Index({**packed("a", "1.0"), **packed("b", "2.0", requires=["a"])}).
"""

import base64
import gzip
import hashlib
import io
import re
import tarfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from tests.zips import Member, zip_bytes

Record = Literal[
    "honest",
    "absent",
    "empty",
    "missing-entry",  # of the first file
    "wrong-hash",
    "wrong-size",
    "no-hash",
    "weak-hash",  # md5, which the standard forbids
    "extra-entry",  # of a file that is not there
    "outside-entry",  # of ../outside, which is not there
    "double-entry",
    "malformed",
]
Text = str | bytes
_EPOCH_S = 1_640_995_200  # 2022-01-01

BACKEND = '''\
"""An in-tree backend (PEP 517) that needs nothing: the wheel lies ready."""
import os, shutil

def _on_build():
    HOOK

def get_requires_for_build_wheel(config_settings=None):
    return []

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _on_build()
    name = os.listdir("ready")[0]
    shutil.copy(os.path.join("ready", name), wheel_directory)
    return name
'''


def wheel(
    name: str,
    version: str,
    files: Mapping[str, Text] | None = None,
    requires: Iterable[str] = (),
    *,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    data: Mapping[str, Text] | None = None,
    tags: str = "py3-none-any",
    record: Record = "honest",
    raw_members: Sequence[Member] = (),
    dist_info: str | None = None,
    metadata_name: str | None = None,
    metadata_version: str | None = None,
    more_metadata: Mapping[str, str] | None = None,
    wheel_version: str = "1.0",
    root_is_purelib: bool = True,
    omitted: Iterable[str] = (),
    claimed_count: int | None = None,
) -> bytes:
    """One wheel.

    files: path -> content; None gives one package, with __version__. entry_points: group -> {name: object}.
    data: "scripts/tool" -> content, put below NAME-VERSION.data. raw_members: as they are, after the others.
    dist_info: the folder's name without .dist-info. metadata_*: what METADATA says instead of the truth.
    omitted: files of the .dist-info that are left out. claimed_count: see zip_bytes.
    """
    stem = f"{escaped(name)}-{version}"
    info = f"{stem if dist_info is None else dist_info}.dist-info"
    told_name, told_version = metadata_name or name, metadata_version or version
    members = [Member(path, _bytes(content)) for path, content in _files(name, version, files).items()]
    members += [Member(f"{stem}.data/{path}", _bytes(content)) for path, content in (data or {}).items()]
    described = {
        "METADATA": metadata(told_name, told_version, requires, more_metadata),
        "WHEEL": _wheel_text(tags, wheel_version, root_is_purelib=root_is_purelib),
    }
    if entry_points:
        described["entry_points.txt"] = _entry_points_text(entry_points)
    left_out = set(omitted)
    members += [Member(f"{info}/{file}", _bytes(text)) for file, text in described.items() if file not in left_out]
    members += raw_members
    if record != "absent":
        text = _record_text(members, f"{info}/RECORD", record)
        members.append(Member(f"{info}/RECORD", text.encode()))
    return zip_bytes(members, claimed_count=claimed_count)


def sdist(
    name: str,
    version: str,
    files: Mapping[str, Text] | None = None,
    requires: Iterable[str] = (),
    *,
    backend: Literal["in-tree", "setuptools"] = "in-tree",
    on_build: str = "pass",
    build_requires: Iterable[str] | None = None,
    more_files: Mapping[str, Text] | None = None,
    raw_members: Sequence[tuple[tarfile.TarInfo, bytes]] = (),
    tags: str = "py3-none-any",
    **of_wheel: Any,
) -> bytes:
    """One source distribution, a tar.gz.

    on_build: statements that run when a wheel is built from it. more_files: path in it -> content, over what would
    be there. build_requires: of the build; None is what the backend needs. of_wheel: of the ready wheel (in-tree).
    """
    root = f"{escaped(name)}-{version}"
    requires = list(requires)
    contents: dict[str, Text] = {"PKG-INFO": metadata(name, version, requires, None)}
    if backend == "in-tree":
        ready = wheel(name, version, files, requires, tags=tags, **of_wheel)
        contents |= {
            "pyproject.toml": _pyproject(build_requires or (), "backend", in_tree=True),
            "backend.py": BACKEND.replace("HOOK", textwrap.indent(on_build, "    ").lstrip()),
            f"ready/{wheel_file(name, version, tags=tags)}": ready,
        }
    else:
        assert not of_wheel, "setuptools makes the wheel"
        needed = ("setuptools",) if build_requires is None else build_requires
        contents |= {
            "pyproject.toml": _pyproject(needed, "setuptools.build_meta", in_tree=False),
            "setup.py": _setup_text(name, version, requires, on_build),
            **_files(name, version, files),
        }
    contents |= more_files or {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in contents.items():
            member = tarfile.TarInfo(f"{root}/{path}")
            member.size, member.mtime, member.mode = len(_bytes(content)), _EPOCH_S, 0o644
            tar.addfile(member, io.BytesIO(_bytes(content)))
        for member, body in raw_members:
            tar.addfile(member, io.BytesIO(body))
    return gzip.compress(buffer.getvalue(), mtime=0)


def packed(name: str, version: str, *positional: Any, **options: Any) -> dict[str, bytes]:
    """{file name: wheel}."""
    file = wheel_file(name, version, tags=options.get("tags", "py3-none-any"))
    return {file: wheel(name, version, *positional, **options)}


def packed_sdist(name: str, version: str, *positional: Any, **options: Any) -> dict[str, bytes]:
    """{file name: source distribution}."""
    return {sdist_file(name, version): sdist(name, version, *positional, **options)}


def wheel_file(name: str, version: str, *, tags: str = "py3-none-any", build: str = "") -> str:
    return "-".join([escaped(name), version, *([build] if build else []), tags]) + ".whl"


def sdist_file(name: str, version: str) -> str:
    return f"{escaped(name)}-{version}.tar.gz"


def escaped(name: str) -> str:
    """A name as files have it: '-' is '_'. Case and dots stay, as many builders leave them."""
    return name.replace("-", "_")


def module(name: str) -> str:
    """The package that a wheel has when it is not told its files."""
    return re.sub(r"[-_.]+", "_", name).lower()


def metadata(
    name: str, version: str, requires: Iterable[str] = (), more: Mapping[str, str] | None = None, *, body: str = ""
) -> str:
    """The text of METADATA."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    lines += [f"{key}: {value}" for key, value in (more or {}).items()]
    return "\n".join(lines) + "\n" + (f"\n{body}" if body else "")


def record_hash(content: bytes) -> str:
    """A file's hash as RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _files(name: str, version: str, files: Mapping[str, Text] | None) -> Mapping[str, Text]:
    return {f"{module(name)}/__init__.py": f"__version__ = {version!r}\n"} if files is None else files


def _record_text(members: Sequence[Member], own: str, record: Record) -> str:
    rows = [[each.path, record_hash(each.content), str(len(each.content))] for each in members if each.recorded]
    match record:
        case "empty":
            return ""
        case "malformed":
            return 'one "column\n\x00,,,,\n'
        case "missing-entry":
            del rows[0]
        case "wrong-hash":
            rows[0][1] = record_hash(b"something else")
        case "wrong-size":
            rows[0][2] = str(int(rows[0][2]) + 1)
        case "no-hash":
            rows[0][1:] = ["", ""]
        case "weak-hash":
            rows[0][1] = "md5=" + base64.urlsafe_b64encode(hashlib.md5(members[0].content).digest()).decode()
        case "extra-entry":
            rows.append(["not/there.py", record_hash(b""), "0"])
        case "outside-entry":
            rows.append(["../outside.py", record_hash(b""), "0"])
        case "double-entry":
            rows.append(list(rows[0]))
    rows.append([own, "", ""])
    return "".join(",".join(f'"{cell}"' if "," in cell else cell for cell in row) + "\n" for row in rows)


def _wheel_text(tags: str, version: str, *, root_is_purelib: bool) -> str:
    pythons, abis, platforms = tags.split("-")
    lines = [f"Wheel-Version: {version}", "Generator: tests", f"Root-Is-Purelib: {str(root_is_purelib).lower()}"]
    for python in pythons.split("."):
        lines += [f"Tag: {python}-{abi}-{place}" for abi in abis.split(".") for place in platforms.split(".")]
    return "\n".join(lines) + "\n"


def _entry_points_text(groups: Mapping[str, Mapping[str, str]]) -> str:
    return "\n".join(
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()), ""])
        for group, entries in groups.items()
    )


def _pyproject(requires: Iterable[str], backend: str, *, in_tree: bool) -> str:
    path = 'backend-path = ["."]\n' if in_tree else ""
    return f'[build-system]\nrequires = {list(requires)!r}\nbuild-backend = "{backend}"\n{path}'


def _setup_text(name: str, version: str, requires: list[str], on_build: str) -> str:
    package = module(name)
    return (
        "import sys\nfrom setuptools import setup\n"
        f'if "bdist_wheel" in sys.argv:\n{textwrap.indent(on_build, "    ")}\n'
        f"setup(name={name!r}, version={version!r}, packages=[{package!r}], install_requires={requires!r})\n"
    )


def _bytes(content: Text) -> bytes:
    return content.encode() if isinstance(content, str) else content
