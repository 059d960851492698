"""The key that secrets are encrypted with at rest, and the file that holds it. Runs in the gateway.

AES-256-GCM. What is sealed begins with the key's number, so that a wrong key is told as that, and is bound to the
name of what it belongs to: a row that is moved to another function or another secret does not open. The file has
one line a key, the current one first; more than one only while the key is being changed.
"""

import base64
import binascii
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.errors import PagurusError

log = logging.getLogger(__name__)

FILE_NAME = "secrets.key"
_FORMAT = b"\x01"
_KEY_BYTES, _ID_BYTES, _NONCE_BYTES = 32, 4, 12
_HEADER = (
    "# The key of the secrets of all functions on this node. Without it they cannot be read: keep a copy of this\n"
    "# file, apart from copies of the database. `pagurus rotate-key` changes it.\n"
)


class SecretsError(PagurusError):
    """Secrets cannot be read or written; the hint is what the operator can do."""


class KeyRing:
    """The keys of one file. Never printed; what a method raises holds no key and no secret."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[bytes, AESGCM] = {}
        self._raw: list[bytes] = []

    def __repr__(self) -> str:
        return f"KeyRing({str(self.path)!r})"

    @property
    def ids(self) -> list[str]:
        """Numbers of the keys, the current one first."""
        return [_id(key).hex() for key in self._raw]

    def load(self) -> None:
        """Read the file. Raises FileNotFoundError, SecretsError when others can read it or it is damaged."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (os.geteuid(), 0):
                raise SecretsError(
                    f"{self.path} can be read or changed by others (mode {stat.S_IMODE(found.st_mode):04o}, "
                    f"owner {found.st_uid})",
                    hint=f"chown {os.geteuid()} {self.path} && chmod 0600 {self.path}, then restart pagurusd",
                )
            lines = file.read(65536).splitlines()
        keys = []
        for line in lines:
            if line.strip() and not line.startswith(b"#"):
                keys.append(_decode(line, self.path))
        if not keys:
            raise SecretsError(f"{self.path} holds no key", hint="restore it from a copy, then restart pagurusd")
        self._take(keys)

    def create(self) -> None:
        """Make a first key and its file."""
        self._write([os.urandom(_KEY_BYTES)])

    def begin_change(self) -> None:
        """Put a new key first; the old ones still open what they have sealed."""
        self._write([os.urandom(_KEY_BYTES), *self._raw])

    def finish_change(self) -> None:
        """Forget all keys but the current one."""
        self._write(self._raw[:1])

    @property
    def is_changing(self) -> bool:
        """Whether a change of the key was begun and not finished."""
        return len(self._raw) > 1

    def seal(self, value: bytes, names: Sequence[str]) -> bytes:
        """Encrypt for the place that `names` tells."""
        number = _id(self._raw[0])
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + number + nonce + self._keys[number].encrypt(nonce, value, _bound(names))

    def open(self, sealed: bytes, names: Sequence[str]) -> bytes:
        """Decrypt. Raises SecretsError: another key, another place, or damage."""
        number = sealed[1 : 1 + _ID_BYTES]
        if sealed[:1] != _FORMAT or len(sealed) < 1 + _ID_BYTES + _NONCE_BYTES:
            raise SecretsError("they are damaged in the database", hint=_AGAIN)
        key = self._keys.get(number)
        if key is None:
            raise SecretsError(
                f"they are encrypted with key {number.hex()}, and {self.path} has {', '.join(self.ids) or 'none'}",
                hint=f"restore {self.path} from a copy and restart pagurusd, or {_AGAIN}",
            )
        start = 1 + _ID_BYTES + _NONCE_BYTES
        try:
            return key.decrypt(sealed[1 + _ID_BYTES : start], sealed[start:], _bound(names))
        except InvalidTag:
            raise SecretsError("they are damaged in the database", hint=_AGAIN) from None

    def _take(self, keys: list[bytes]) -> None:
        self._raw = keys
        self._keys = {_id(key): AESGCM(key) for key in keys}

    def _write(self, keys: list[bytes]) -> None:
        """Replace the file, on the disk when this returns: a key must never be newer than its file."""
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.unlink(missing_ok=True)
        lines = [f"{_id(key).hex()} {base64.b64encode(key).decode()}\n" for key in keys]
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write((_HEADER + "".join(lines)).encode())
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._take(keys)


_AGAIN = "deploy the function with all its secrets again"


def _id(key: bytes) -> bytes:
    return hashlib.sha256(b"pagurus-key" + key).digest()[:_ID_BYTES]


def _bound(names: Sequence[str]) -> bytes:
    return "\0".join(["pagurus-secret", *names]).encode()


def _decode(line: bytes, path: Path) -> bytes:
    number, _, text = line.strip().partition(b" ")
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES or _id(key).hex().encode() != number:
        raise SecretsError(f"{path} is damaged", hint="restore it from a copy, then restart pagurusd")
    return key
