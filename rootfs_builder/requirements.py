"""What a function may require, and the lock that it becomes. Pure text; runs in the builder.

Only names with versions, extras, markers and hashes are taken. What is refused would make a build depend on
something that the lock cannot pin (a URL, a path, another index). uv is given the lines as they were understood
here, never the file itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import BuildError

BYTES_MAX = 64 * 1024
LINES_MAX = 500
SHOWN_CHARS_MAX = 120
_NAME = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[A-Za-z0-9._,\s-]*\])?\s*(.*)")
_EXACT = re.compile(r"\(?\s*===?\s*([A-Za-z0-9.!+_-]+)\s*\)?")
_HASH = re.compile(r"(?:^|\s)--hash[= ]\s*(\S+)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_COMMENT = re.compile(r"(^|\s)#.*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")
_DIRECT = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*@\s*https://[^\s@#;]+\.whl#sha256=[0-9a-f]{64}(?:\s+;\s*(.*))?"
)
_INDEX_HINT = "name a package of the index, with a version if you like: 'requests==2.31.0'"
_URL_HINT = (
    f"{_INDEX_HINT}; with the setting url_requirements a wheel's address is taken too, as"
    " 'NAME @ https://HOST/FILE.whl#sha256=DIGEST'"
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One understood line. `name`: normalised (PEP 503); `version`: of an exact pin, else ''; `hashes`: sorted."""

    name: str
    text: str
    version: str = ""
    marker: str = ""
    hashes: tuple[str, ...] = ()

    @property
    def is_locked(self) -> bool:
        return bool(self.version and self.hashes)


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, *, allows_urls: bool = False) -> tuple[Requirement, ...]:
    """Understand the text of a requirements file. Raises BuildError of kind `requirements` that names the line.

    allows_urls: NAME @ https://…/FILE.whl#sha256=DIGEST is taken; a repository or a path never is.
    """
    size = len(text.encode(errors="replace"))
    if size > BYTES_MAX:
        raise _refused(f"the requirements have {size} bytes, the limit is {BYTES_MAX}", "list direct requirements only")
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    parsed = [_parse_line(number, line, allows_urls=allows_urls) for number, line in _joined(lines) if line]
    if sum(1 for line in lines if line.strip()) > LINES_MAX and not all(each.is_locked for each in parsed):
        raise _refused(f"the requirements have more than {LINES_MAX} lines", "list direct requirements only")
    if len(parsed) > LINES_MAX:
        raise _refused(f"there are {len(parsed)} requirements, the limit is {LINES_MAX}", "list direct ones only")
    if any(each.hashes for each in parsed) and not all(each.is_locked for each in parsed):
        bad = next(each for each in parsed if not each.is_locked)
        raise _refused(
            f"requirement {bad.name!r} is not pinned with a hash, but others are",
            "pin every requirement, its dependencies too, with '==' and --hash, or none",
        )
    return tuple(parsed)


def is_lock(requirements: Iterable[Requirement]) -> bool:
    """Whether all of them are exact and have hashes, so that there is nothing to resolve."""
    return all(each.is_locked for each in requirements)


def direct(requirements: Iterable[Requirement]) -> set[str]:
    """Names of those that are addresses, not names to look up in the index."""
    return {each.name for each in requirements if _DIRECT.fullmatch(each.text) is not None}


def input_text(requirements: Iterable[Requirement]) -> str:
    """The lines to resolve."""
    return "".join(f"{each.text}\n" for each in requirements)


def lock_text(requirements: Iterable[Requirement]) -> str:
    """Requirements that are locked, one way to write them: sorted, hashes sorted, no comments."""
    blocks = set()
    for each in requirements:
        assert each.is_locked, each.name
        marker = f" ; {each.marker}" if each.marker else ""
        hashes = "".join(f" \\\n    --hash={digest}" for digest in each.hashes)
        blocks.add((each.name, f"{each.name}=={each.version}{marker}{hashes}\n"))
    return "".join(block for _, block in sorted(blocks))


def _joined(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    """Lines without comments, with continuation lines joined, and the number of the first of each."""
    first, pending = 0, ""
    for number, line in enumerate(lines, start=1):
        first = first if pending else number
        line = _COMMENT.sub("", line).rstrip()
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        yield first, (pending + line).strip()
        pending = ""
    yield first, pending.strip()


def _parse_line(number: int, line: str, *, allows_urls: bool) -> Requirement:
    if _CONTROL.search(line):
        raise _line_refused(number, line, "has a control character", "remove it")
    if line.startswith("-"):
        option = re.split(r"[\s=]", line)[0]
        raise _line_refused(number, line, f"has the option {option}, which is not supported", _option_hint(option))
    if allows_urls and (direct := _DIRECT.fullmatch(line)) is not None:
        return Requirement(normalised(direct[1]), line, marker=" ".join((direct[2] or "").split()))
    _refuse_elsewhere(number, line)
    hashes = tuple(sorted(set(_HASH.findall(line))))
    plain = _HASH.sub(" ", line).strip()
    if (option_at := re.search(r"(?:^|\s)(--?[A-Za-z][\w-]*)", plain.partition(";")[0])) is not None:
        raise _line_refused(number, line, f"has the option {option_at[1]}, which is not supported", "remove it")
    for digest in hashes:
        if not _SHA256.fullmatch(digest):
            raise _line_refused(number, line, f"has the hash {digest!r}", "use --hash=sha256:<64 hex digits>")
    found = _NAME.fullmatch(plain)
    if found is None or not re.match(r"$|[<>=!~(;]", found[3]):
        raise _line_refused(number, line, "cannot be understood", "write NAME, NAME==VERSION or NAME>=VERSION")
    versions, _, marker = found[3].partition(";")
    exact = _EXACT.fullmatch(versions.strip())
    version = exact[1] if exact else ""
    return Requirement(normalised(found[1]), plain, version=version, marker=" ".join(marker.split()), hashes=hashes)


def _refuse_elsewhere(number: int, line: str) -> None:
    """Refuse what is not in the index: URLs, repositories, paths; and variables, which uv would fill in."""
    before_marker = line.partition(";")[0]
    if re.search(r"\b(git|hg|svn|bzr)\+", line) or line.startswith("git@"):
        raise _line_refused(number, line, "is a repository, whose content no hash pins", _INDEX_HINT)
    if "://" in line or "@" in before_marker:
        raise _line_refused(number, line, "is a URL", _URL_HINT)
    if line.startswith((".", "~", "/")) or "/" in before_marker or "\\" in before_marker:
        raise _line_refused(number, line, "is a path", _INDEX_HINT)
    if re.search(r"\.(whl|zip|tar\.gz|tar\.bz2|tar\.xz|tgz)\s*$", before_marker, re.IGNORECASE):
        raise _line_refused(number, line, "is a file", _INDEX_HINT)
    if "${" in line:
        raise _line_refused(number, line, "has a variable", "write the version itself")


def _option_hint(option: str) -> str:
    if option in ("-e", "--editable"):
        return "pack the package's source with the function instead"
    if option in ("-r", "--requirement", "-c", "--constraint"):
        return "put all requirements into one file"
    if option in ("-i", "--index-url", "--extra-index-url", "-f", "--find-links"):
        return "the package index is a setting of the node: index_url"
    return "remove it"


def _line_refused(number: int, line: str, rule: str, hint: str) -> BuildError:
    text = line if len(line) <= SHOWN_CHARS_MAX else line[:SHOWN_CHARS_MAX] + "..."
    return _refused(f"line {number} of the requirements {rule}: {text!r}", hint)


def _refused(message: str, hint: str) -> BuildError:
    return BuildError("requirements", message, hint=hint)
