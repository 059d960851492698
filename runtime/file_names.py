"""What the names of wheels and sdists say: distribution and version, written one way. A leaf."""

import re
from dataclasses import dataclass

NAME_CHARS_MAX = 255
SDIST_SUFFIXES = (".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz")
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~-]*")
_WHEEL = re.compile(
    r"([A-Za-z0-9._]+)-([A-Za-z0-9._+!]+)(-[0-9][A-Za-z0-9._]*)?-[A-Za-z0-9._]+-[A-Za-z0-9._]+-[A-Za-z0-9._]+\.whl"
)
# PEP 440, appendix B, after lowering and stripping
_VERSION = re.compile(
    r"v?(?:(\d+)!)?(\d+(?:\.\d+)*)"
    r"(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d+)?)?"
    r"(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d+)?)?"
    r"(?:[-_.]?(dev)[-_.]?(\d+)?)?(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?"
)
_PHASES = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}


@dataclass(frozen=True, slots=True)
class Release:
    """A distribution's release. Both in their one form, so that equal ones are equal."""

    name: str
    version: str

    @classmethod
    def of(cls, name: str, version: str) -> "Release":
        return cls(normalised_name(name), normalised_version(version))


def normalised_name(name: str) -> str:
    """As PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def normalised_version(version: str) -> str:
    """As PEP 440 compares them: '1.0-Beta' and '1b0' are one. What is no such version stays as it is."""
    found = _VERSION.fullmatch(version.strip().lower()) if len(version) <= NAME_CHARS_MAX else None
    if found is None:
        return version
    epoch, release, phase, phase_number, post, post_word, named_post, dev, dev_number, local = found.groups()
    numbers = [str(int(part)) for part in release.split(".")]
    while len(numbers) > 1 and numbers[-1] == "0":
        numbers.pop()
    text = (f"{int(epoch)}!" if int(epoch or 0) else "") + ".".join(numbers)
    if phase:
        text += f"{_PHASES.get(phase, phase)}{int(phase_number or 0)}"
    if post or post_word:
        text += f".post{int(post or named_post or 0)}"
    if dev:
        text += f".dev{int(dev_number or 0)}"
    return text + (f"+{re.sub('[-_]', '.', local)}" if local else "")


def is_safe(filename: str) -> bool:
    """Whether it is one path component of harmless characters."""
    return len(filename) <= NAME_CHARS_MAX and _SAFE.fullmatch(filename) is not None


def of_wheel(filename: str) -> Release | None:
    """The release that a wheel's name says (PEP 427), or None."""
    found = _WHEEL.fullmatch(filename) if is_safe(filename) else None
    return Release.of(found[1], found[2]) if found else None
