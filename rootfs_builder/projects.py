"""The requirements that a function's code brings along: requirements.txt, else pyproject.toml. Builder."""

import tomllib
from pathlib import Path

from rootfs_builder import requirements
from runtime.errors import BuildError

REQUIREMENTS_FILE, PROJECT_FILE = "requirements.txt", "pyproject.toml"


def requirements_of(code: Path) -> str:
    """The text of the code's requirements, '' for none. The code has no links, so neither have these files.

    Of a pyproject.toml [project] dependencies count, without the optional ones. Raises BuildError.
    """
    if (code / REQUIREMENTS_FILE).is_file():
        return _read(code / REQUIREMENTS_FILE)
    if not (code / PROJECT_FILE).is_file():
        return ""
    try:
        project = tomllib.loads(_read(code / PROJECT_FILE)).get("project", {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BuildError("requirements", f"{PROJECT_FILE} cannot be read: {error}", hint="correct the file") from error
    if not isinstance(project, dict):
        raise BuildError("requirements", f"[project] in {PROJECT_FILE} is no table", hint="correct the file")
    dynamic = project.get("dynamic", [])
    if not isinstance(dynamic, list):
        raise BuildError(
            "requirements", f"[project] dynamic in {PROJECT_FILE} is no list of names", hint="correct the file"
        )
    if "dependencies" in dynamic:
        raise BuildError(
            "requirements",
            f"{PROJECT_FILE} computes its dependencies",
            hint="list them in [project] dependencies, or in requirements.txt",
        )
    lines = project.get("dependencies", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) and "\n" not in line for line in lines):
        raise BuildError(
            "requirements", f"[project] dependencies in {PROJECT_FILE} is no list of lines", hint="correct the file"
        )
    return "".join(f"{line}\n" for line in lines)


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        raw = file.read(requirements.BYTES_MAX + 1)
    if len(raw) > requirements.BYTES_MAX:
        raise BuildError(
            "requirements",
            f"{path.name} has more than {requirements.BYTES_MAX} bytes",
            hint="list direct requirements only",
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BuildError("requirements", f"{path.name} is not UTF-8", hint="save it as UTF-8") from error
