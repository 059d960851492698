"""What the names of wheels and sdists say: distribution and version, each in its one form. A leaf."""

import re
from dataclasses import dataclass

from packaging.utils import InvalidWheelFilename, canonicalize_name, canonicalize_version, parse_wheel_filename

NAME_CHARS_MAX = 255
SDIST_SUFFIXES = (".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~-]*")


@dataclass(frozen=True, slots=True)
class Release:
    """A distribution's release. Both in their one form (PEP 503, PEP 440), so that equal ones are equal."""

    name: str
    version: str

    @classmethod
    def of(cls, name: str, version: str) -> "Release":
        return cls(canonicalize_name(name), canonicalize_version(version))


def is_safe(filename: str) -> bool:
    """Whether it is one path component of harmless characters."""
    return len(filename) <= NAME_CHARS_MAX and _SAFE.fullmatch(filename) is not None


def of_wheel(filename: str) -> Release | None:
    """The release that a wheel's name says (PEP 427), or None."""
    if not is_safe(filename):
        return None
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    return Release.of(name, str(version))
