"""The secrets of one version of a function, in the gateway's memory: values that no repr, log or answer shows."""

import re
import secrets as random
from collections.abc import Mapping

from gateway.secret_key import SecretsError

NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SECRETS_MAX = 64
SECRETS_BYTES_MAX = 16 * 1024  # names and values of one function: they go to its sandbox in one message


class Secrets:
    """Names, values, and the random id of the set: another set is another version, and tells nothing of the values.

    unreadable: why the values cannot be had, with what to do; or None.
    """

    __slots__ = ("_values", "id", "names", "unreadable")

    def __init__(self, id_: str, values: Mapping[str, str], *, unreadable: SecretsError | None = None) -> None:
        self.id = id_
        self.names = tuple(sorted(values))
        self.unreadable = unreadable
        self._values = {} if unreadable else dict(values)

    def __repr__(self) -> str:
        return f"Secrets({len(self.names)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secrets) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def reveal(self) -> dict[str, str]:
        """The values, for the sandbox. Raises SecretsError."""
        if self.unreadable is not None:
            raise self.unreadable
        return self._values

    def changed(self, changes: Mapping[str, str | None]) -> "Secrets":
        """With these values set and, where they are None, removed; the others are kept (as RFC 7396 has it).

        The same set when nothing is different. Raises SecretsError when one that is kept cannot be read.
        """
        if not changes:
            return self
        kept = [name for name in self.names if name not in changes]
        if kept and self.unreadable is not None:
            raise self.unreadable
        values = {name: self._values[name] for name in kept}
        values |= {name: value for name, value in changes.items() if value is not None}
        if not values:
            return NO_SECRETS
        if self.unreadable is None and values == self._values:
            return self
        return Secrets(random.token_hex(8), values)

    @property
    def size_bytes(self) -> int:
        """Of names and values."""
        return sum(len(name.encode()) + len(value.encode()) for name, value in self._values.items())


NO_SECRETS = Secrets("", {})
