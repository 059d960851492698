"""Where the host's apt gets Debian from, told again for another release. Runs as root, in `base`.

No mirror is named here: without a usable source on the host, mmdebstrap's own default is taken.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ARCHIVE_KEYRINGS = (  # of the package debian-archive-keyring: keys of all releases that are still supported
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)
_ALIASES = ("stable", "oldstable", "testing", "unstable", "sid")
_PARTS = r"(|-updates|-security|/updates)"
# What of apt's settings decides how it reaches a mirror; the rest is about the host's own packages.
_TRANSPORT = re.compile(r'Acquire::(http|https|ftp|tor|Retries|Check-Valid-Until|Check-Date|ForceIPv[46])\b.* "[^"]+";')


@dataclass(frozen=True, slots=True)
class Source:
    """One line of apt's sources: a suite at a place. `signed_by`: keyring file, or ''."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


def host_lines(suite: str, *, apt: Path = Path("/etc/apt"), release: Path = Path("/etc/os-release")) -> list[str]:
    """One-line sources for `suite` from the host's own Debian sources; none when it has no such source."""
    own = codename(release)
    sources = [source for path in _files(apt) for source in parse(path)]
    return lines_for(suite, sources, own=own, keyring=next((path for path in ARCHIVE_KEYRINGS if _exists(path)), ""))


def lines_for(suite: str, sources: Iterable[Source], *, own: str, keyring: str) -> list[str]:
    """Debian's sources among these, with the host's release `own` replaced by `suite`, each once."""
    names = "|".join(re.escape(name) for name in (own, *_ALIASES) if name)
    pattern = re.compile(rf"(?:{names}){_PARTS}")
    lines: dict[str, None] = {}
    for source in sources:
        found = pattern.fullmatch(source.suite)
        is_debian = not source.signed_by or "debian-archive" in source.signed_by
        if found and is_debian and "main" in source.components:
            part = "-security" if found[1] == "/updates" else found[1]
            signer = keyring or source.signed_by
            options = f"[signed-by={signer}] " if signer else ""
            lines[f"deb {options}{source.uri} {suite}{part} main"] = None
    has_release = any(line.endswith(f" {suite} main") for line in lines)
    return list(lines) if has_release else []


def codename(release: Path) -> str:
    """The host's release by os-release(5): 'bookworm', or '' when it says none."""
    try:
        found = re.search(r'^VERSION_CODENAME="?([a-z-]+)"?$', release.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def transport_options(dump: str) -> list[str]:
    """Proxy, certificate and timeout settings out of `apt-config dump`, one for each line."""
    return [line for line in dump.splitlines() if _TRANSPORT.fullmatch(line)]


def parse(path: Path) -> Iterator[Source]:
    """Read one-line (.list) or deb822 (.sources) sources; what cannot be understood is passed over."""
    text = path.read_text(errors="replace")
    return _deb822(text) if path.suffix == ".sources" else _one_line(text)


def _files(apt: Path) -> list[Path]:
    parts = sorted(apt.glob("sources.list.d/*"))
    return [path for path in (apt / "sources.list", *parts) if path.suffix in (".list", ".sources") and path.is_file()]


def _exists(path: str) -> bool:
    return Path(path).exists()


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        found = re.fullmatch(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.partition("#")[0].strip())
        if found:
            options = dict(part.partition("=")[::2] for part in (found[1] or "").split())
            yield Source(found[2], found[3], tuple(found[4].split()), options.get("signed-by", ""))


def _deb822(text: str) -> Iterator[Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + " " + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        yield from _stanza_sources(fields)


def _stanza_sources(fields: dict[str, str]) -> Iterator[Source]:
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
        return
    signed_by = fields.get("signed-by", "")
    if "BEGIN PGP" in signed_by:
        return  # an embedded key is somebody's own archive
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            yield Source(uri, suite, tuple(fields.get("components", "").split()), signed_by)
