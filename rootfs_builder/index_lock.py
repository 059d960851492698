"""The lock that uv wrote in a build box, made true again: its URLs are the proxy's, and its author may be hostile.

Every package is written anew from what the proxy has handed out itself. Builder.
"""

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

from rootfs_builder.index_pages import IndexFile
from runtime import file_names
from runtime.errors import BuildError

PACKAGES_MAX = 2000
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
Find = Callable[[str], tuple[str, IndexFile] | None]


def mapped(text: str, find: Find) -> str:
    """A pylock.toml (PEP 751) with the index's own URLs, of names, versions, files, sizes and hashes only.

    find: project and upstream file of a URL that the proxy has handed out, else None. Raises BuildError of kind
    `sdist` for anything that is not the index's.
    """
    try:
        packages = tomllib.loads(text).get("packages", [])
        if not isinstance(packages, list) or len(packages) > PACKAGES_MAX:
            raise _refused("its packages are no list, or too many")
        blocks = [_package(each, find) for each in packages]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _refused(f"it is no TOML: {error}") from error
    return "\n".join(['lock-version = "1.0"\ncreated-by = "pagurus"\n', *sorted(blocks)])


def _package(package: Any, find: Find) -> str:
    if not isinstance(package, dict):
        raise _refused("a package is no table")
    name, version = package.get("name"), package.get("version")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refused("a package has no normalised name")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise _refused(f"package {name!r} has no version")
    lines = ["[[packages]]", f"name = {json.dumps(name)}", f"version = {json.dumps(version)}"]
    sdist, wheels = package.get("sdist"), package.get("wheels", [])
    if not isinstance(wheels, list) or len(wheels) > PACKAGES_MAX or not (sdist or wheels):
        raise _refused(f"package {name!r} has no file")
    if sdist is not None:
        lines.append(f"sdist = {_file(sdist, name, version, find)}")
    if wheels:
        lines.append(f"wheels = [{', '.join(_file(each, name, version, find) for each in wheels)}]")
    return "\n".join(lines) + "\n"


def _file(file: Any, name: str, version: str, find: Find) -> str:
    url = file.get("url") if isinstance(file, dict) else None
    found = find(url) if isinstance(url, str) else None
    if found is None:
        raise _refused(f"a file of {name!r} is not from the index")
    project, upstream = found
    hashes = file.get("hashes")
    digest = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BuildError("sdist", f"the index gives no sha256 for {upstream.filename}", hint="choose another version")
    is_wheel = upstream.filename.endswith(".whl")
    release = file_names.Release.of(name, version)
    if project != name or (is_wheel and file_names.of_wheel(upstream.filename) != release):
        raise _refused(f"{upstream.filename} is no file of {name} {version}")
    if upstream.sha256 and digest != upstream.sha256:
        raise _refused(f"{upstream.filename} has another hash there than the index says")
    size = f"size = {upstream.size}, " if upstream.size is not None else ""
    shown = json.dumps(upstream.filename), json.dumps(upstream.url, ensure_ascii=True)
    return f'{{ name = {shown[0]}, url = {shown[1]}, {size}hashes = {{ sha256 = "{digest}" }} }}'


def _refused(rule: str) -> BuildError:
    return BuildError(
        "sdist",
        f"the lock that was made in the build box cannot be trusted: {rule}",
        hint="the build code of a required package may have changed it: choose other versions",
    )
