"""Tokens of the HTTP surface: who may use it, kept as digests only in one file of root. A leaf.

`pagurus token` writes the file, pagurusd reads it and tells the gateway. A token is 256 random bits, so that its
SHA-256 needs no salt and no slow hash: there is nothing to guess.
"""

import base64
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec

from runtime.config import Settings, is_loopback
from runtime.errors import ConfigError
from runtime.model import FunctionName

FILE_NAME = "tokens.json"
FILE_BYTES_MAX = 96 * 1024  # the gateway gets all of it in one message
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
PREFIX = "pgs_"  # so that scanners for lost secrets can find one


class Role(StrEnum):
    """What a token's holder may do."""

    ADMIN = "admin"  # everything
    INVOKE = "invoke"  # invoke functions, or only those that are named


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token. `functions`: for INVOKE, empty means all. Times are Unix seconds."""

    name: str
    sha256: str
    role: Role
    functions: tuple[FunctionName, ...] = ()
    created_s: float = 0.0
    expires_s: float | None = None

    def is_live(self, now_s: float) -> bool:
        return self.expires_s is None or now_s < self.expires_s


class _File(msgspec.Struct, frozen=True):
    tokens: tuple[Token, ...]


def digest(text: str) -> str:
    """What is kept of a token, and what a presented one is compared by."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def file_of(settings: Settings) -> Path:
    return Path(settings.state_dir) / FILE_NAME


def load(path: Path) -> tuple[Token, ...]:
    """The tokens of a file, none if it is not there.

    Raises ConfigError when others could change or read it, or it is damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="run this as root") from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or mode & 0o077:
            raise ConfigError(
                f"{path} has mode {mode:04o} and owner {found.st_uid}: others could use it",
                hint=f"chown {os.geteuid()} {path} && chmod 0600 {path}",
            )
        content = file.read(FILE_BYTES_MAX + 1)
    try:
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"{path} is longer than {FILE_BYTES_MAX} bytes", hint="remove tokens with pagurus token")
        return msgspec.json.decode(content, type=_File).tokens
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="restore it from a copy, or make new tokens") from error


def stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file does; zeros when it is not there."""
    try:
        found = path.lstat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def create(
    path: Path, name: str, *, role: Role, functions: Sequence[FunctionName] = (), expires_s: float | None = None
) -> str:
    """Add a token; its text, which is nowhere else from now on. Raises ConfigError."""
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is no name of a token: letters, digits, '_', '.', '-', at most 63")
    if functions and role is not Role.INVOKE:
        raise ConfigError("functions can be named for role invoke only", hint="add --role invoke")
    text = PREFIX + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    made = Token(
        name=name,
        sha256=digest(text),
        role=role,
        functions=tuple(functions),
        created_s=time.time(),
        expires_s=expires_s,
    )

    def add(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        if any(one.name == name for one in tokens):
            raise ConfigError(f"there is a token {name} already", hint=f"pagurus token rm {name}")
        return (*tokens, made)

    _change(path, add)
    return text


def remove(path: Path, name: str) -> None:
    """Forget a token. Raises ConfigError when there is none of this name."""

    def without(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        kept = tuple(one for one in tokens if one.name != name)
        if len(kept) == len(tokens):
            raise ConfigError(f"there is no token {name[:80]}", hint="pagurus token ls")
        return kept

    _change(path, without)


def require(settings: Settings, tokens: Sequence[Token]) -> None:
    """Raises ConfigError when pagurusd must not listen without a token, and there is none that is valid."""
    if any(one.is_live(time.time()) for one in tokens):
        return
    hint = "make one: pagurus token create NAME; or listen on a loopback address"
    if not is_loopback(settings):
        raise ConfigError(f"listen is {settings.listen!r}: other machines could invoke without credentials", hint=hint)
    if settings.auth == "always":
        raise ConfigError("auth is 'always', and there is no valid token", hint=hint)


def _change(path: Path, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
    """Read, change, and replace the file, one at a time."""
    with _locked(path.parent):
        content = msgspec.json.format(msgspec.json.encode(_File(change(load(path)))), indent=1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError(f"all tokens together have more than {FILE_BYTES_MAX} bytes", hint="remove some")
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.unlink(missing_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content + b"\n")
                file.flush()
                os.fsync(descriptor)
            os.rename(beside, path)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}", hint="run this as root") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"cannot open {folder}: {error.strerror}", hint="run scripts/setup first, and this as root"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
