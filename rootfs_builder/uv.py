"""How uv is run: which program, which environment, which index, and what its failures mean. Builder.

uv reads no settings files, least of all from the function's code, and never runs code of a package: only wheels.
"""

import configparser
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootfs_builder import trees
from rootfs_builder.children import Command, Finished, run
from rootfs_builder.events import Reporter
from rootfs_builder.suites import Suite
from runtime.errors import BuildError

WORDS_CHARS_MAX = 4000
_PASSED = ("PATH", "LANG", "LC_ALL", "HOME", "NETRC", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT")
_PASSED_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_PASSED_UV = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_OFFLINE",
)
_NO_WHEELS = ("no usable wheels", "building from source is disabled", "no wheels with")
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")


class NeedsSourceError(BuildError):
    """Requirements that cannot be met by wheels alone."""


@dataclass(frozen=True, slots=True)
class Uv:
    """uv for one build. `directory`: scratch, of this build alone; `cache`: shared with other builds."""

    suite: Suite
    python: str
    directory: Path
    environ: Mapping[str, str]

    def compile(self, requirements: Path, output: Path, reporter: Reporter, *, has_dependencies: bool = False) -> None:
        """Resolve requirements into a pylock.toml. has_dependencies: they are listed too, none is to be added.

        Raises BuildError with uv's words.
        """
        arguments = ["compile", "--format", "pylock.toml", "--output-file", str(output), "--no-header", "--no-annotate"]
        if has_dependencies:
            arguments.append("--no-deps")
        ended = self._run("resolve", (*arguments, str(requirements)), reporter)
        if ended.status != 0:
            error = failure(ended.output, "requirements", "cannot resolve the requirements")
            if any(words in ended.output for words in _NO_WHEELS):
                raise NeedsSourceError(error.kind, error.message, hint=error.hint)
            raise error

    def _run(self, phase: str, arguments: tuple[str, ...], reporter: Reporter) -> Finished:
        common = ("--no-config", "--no-progress", "--no-python-downloads", "--only-binary", ":all:")
        target = ("--python", self.python, "--python-version", self.suite.python)
        argv = (*program(), "pip", *arguments, *common, *target, "--python-platform", self.suite.uv_platform())
        command = Command(argv, self.environ, directory=str(self.directory), drops_stdout=True)  # it repeats the lock
        has_failed = False

        def on_line(line: str) -> None:
            nonlocal has_failed
            has_failed = has_failed or line.startswith("error:")
            if not has_failed:  # the failure says the rest
                reporter.progress(phase, line.strip())

        return run(command, on_line=on_line, on_idle=reporter.alive)


def program() -> tuple[str, ...]:
    """The uv that is installed beside us, or the module."""
    beside = Path(sys.prefix, "bin", "uv")
    return (str(beside),) if beside.exists() else (sys.executable, "-P", "-m", "uv")


def environment(
    environ: Mapping[str, str], *, cache: str, scratch: str, index_url: str, extra_index_urls: Sequence[str] = ()
) -> dict[str, str]:
    """All that uv gets: what reaches the index, where it may write, and the indexes if some are set.

    index_url '' takes uv's own variables, then the index that pip is configured with, then uv's default. The
    index goes in a variable, not an argument: it may hold a password.
    """
    passed = {name: environ[name] for name in (*_PASSED, *_PASSED_UV) if name in environ}
    passed |= {name: value for name, value in environ.items() if name.lower() in _PASSED_PROXIES}
    passed.setdefault("PATH", os.defpath)
    passed.setdefault("HOME", scratch)
    passed |= {"UV_CACHE_DIR": cache, "TMPDIR": scratch, "NO_COLOR": "1"}
    if index_url:
        for name in _INDEX_VARIABLES:
            passed.pop(name, None)
        passed["UV_DEFAULT_INDEX"] = index_url
    elif not any(name in passed for name in _INDEX_VARIABLES) and (configured := pip_index_url(environ)):
        passed["UV_DEFAULT_INDEX"] = configured
    if extra_index_urls:
        passed["UV_INDEX"] = " ".join(extra_index_urls)
    return passed


def pip_index_url(environ: Mapping[str, str]) -> str:
    """The index that pip is configured with: PIP_INDEX_URL, else the last of pip's files that has one, else ''."""
    if url := environ.get("PIP_INDEX_URL"):
        return url
    home = environ.get("HOME", "/nonexistent")
    directories = environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    files = [*(f"{directory}/pip/pip.conf" for directory in reversed(directories)), "/etc/pip.conf"]
    files += [f"{home}/.pip/pip.conf", f"{environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/pip/pip.conf"]
    files.append(f"{sys.prefix}/pip.conf")
    if chosen := environ.get("PIP_CONFIG_FILE"):
        files.append(chosen)
    url = ""
    for path in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip itself will complain; a build does not depend on it
        for section in ("global", "install"):
            url = parser.get(section, "index-url", fallback=url)
    return url


def failure(output: str, kind: str, doing: str) -> BuildError:
    """The error for a failed uv, in uv's own words, with the next step where it is known."""
    if "No space left on device" in output or "os error 28" in output:
        return trees.writing_failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "install the packages")
    return BuildError(kind, f"{doing}: {_words(output)}", hint=_hint(output))


def _words(output: str) -> str:
    """What uv said from its first error on, without the label."""
    start = output.find("error:")
    words = output[start + len("error:") :] if start >= 0 else output
    words = "\n".join(line.rstrip() for line in words.strip().split("\n"))
    return words if len(words) <= WORDS_CHARS_MAX else words[:WORDS_CHARS_MAX] + "..."


def _hint(output: str) -> str:
    if "Failed to fetch" in output or "error sending request" in output or "dns error" in output:
        return "check that this node reaches the package index (setting index_url)"
    if any(words in output for words in _NO_WHEELS):
        return "choose a version that has a wheel for this Python and platform, or allow sdists (setting sdists)"
    if "401 Unauthorized" in output or "403 Forbidden" in output:
        return "the package index wants a name and password, or others: give them in index_url, or in ~/.netrc"
    if "was not found in the package registry" in output:
        return "check the package's name"
    if "no version of" in output or "unsatisfiable" in output:
        return "loosen or correct the versions"
    if "hash" in output.lower():
        return "lock the requirements again"
    return ""
