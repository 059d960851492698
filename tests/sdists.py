"""Sdists with a build backend of their own (PEP 517, in-tree): what a test wants the hostile party to do."""

import io
import tarfile
import textwrap

BACKEND = """
import os, pathlib, sys, zipfile

NAME, VERSION = {name!r}, {version!r}
FILES = {files!r}


def metadata():
    return "Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n%s" % (NAME, VERSION, {requires!r})


def write_wheel(directory, name=NAME, version=VERSION):
    stem = "%s-%s" % (name.replace("-", "_"), version)
    info = stem + ".dist-info/"
    contents = dict(FILES)
    contents[info + "METADATA"] = metadata()
    contents[info + "WHEEL"] = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    contents[info + "RECORD"] = "".join(path + ",,\\n" for path in [*contents, info + "RECORD"])
    path = pathlib.Path(directory, stem + "-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in contents.items():
            archive.writestr(each, text)
    return path.name


def prepare_metadata_for_build_wheel(directory, config_settings=None):
    on_metadata()
    info = pathlib.Path(directory, "%s-%s.dist-info" % (NAME.replace("-", "_"), VERSION))
    info.mkdir()
    (info / "METADATA").write_text(metadata())
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return info.name


def build_wheel(directory, config_settings=None, metadata_directory=None):
    return on_build(directory)


def on_metadata():
    pass


def on_build(directory):
    return write_wheel(directory)
"""


def sdist(
    body: str = "",
    *,
    name: str = "demo",
    version: str = "1.0",
    files: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
    build_requires: tuple[str, ...] = (),
) -> bytes:
    """A .tar.gz. body: Python that may replace on_build(directory) and on_metadata() of BACKEND."""
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents = files if files is not None else {f"{name.replace('-', '_')}.py": "answer = 42\n"}
    backend = BACKEND.format(name=name, version=version, files=contents, requires=needed)
    project = f'[build-system]\nrequires = {list(build_requires)!r}\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    return archive(
        f"{name}-{version}",
        {"pyproject.toml": project, "backend.py": backend + textwrap.dedent(body), "PKG-INFO": head},
    )


def archive(root: str, files: dict[str, str]) -> bytes:
    """A .tar.gz of files below a root directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{root}/{path}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
