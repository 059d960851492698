"""Secrets in the store: one encrypted row each, below the version they belong to.

`Safe` is used in the store's thread only, inside the transactions of gateway.store.functions.
"""

import logging
import sqlite3
from pathlib import Path

from gateway.secret_key import KeyRing, SecretsError
from gateway.secrets import NO_SECRETS, Secrets
from gateway.store.database import durably

log = logging.getLogger(__name__)


class Safe:
    """Seals what goes into the table `secrets`, opens what comes out."""

    def __init__(self, key_path: Path) -> None:
        self.ring = KeyRing(key_path)
        self._problem: SecretsError | None = None

    def start(self, connection: sqlite3.Connection) -> None:
        """Read the key, make one for a store without secrets, finish a change of the key that was cut off."""
        try:
            self.ring.load()
        except FileNotFoundError:
            if _count(connection):
                log.error("the key of the secrets is lost: %s is not there", self.ring.path)
            else:
                self.ring.create()
        except (SecretsError, OSError) as error:
            self._problem = _as_problem(error, self.ring.path)
            log.error("the secrets cannot be read: %s", self._problem)
        if self.ring.is_changing:
            self._seal_again(connection)

    def put(self, connection: sqlite3.Connection, function: str, secrets: Secrets) -> None:
        """Store a version's set, unless it is there. Raises SecretsError without a usable key."""
        if not secrets.id or _rows(connection, function, secrets.id):
            return
        self._need_key()
        connection.executemany(
            "INSERT INTO secrets VALUES (?, ?, ?, ?)",
            [
                (function, secrets.id, name, self.ring.seal(value.encode(), (function, secrets.id, name)))
                for name, value in secrets.reveal().items()
            ],
        )

    def get(self, connection: sqlite3.Connection, function: str, set_id: str) -> Secrets:
        """A version's set; never raises, see Secrets.unreadable."""
        if not set_id:
            return NO_SECRETS
        rows = _rows(connection, function, set_id)
        try:
            if self._problem is not None:
                raise self._problem
            opened = {name: self.ring.open(sealed, (function, set_id, name)).decode() for name, sealed in rows.items()}
        except SecretsError as error:
            text = f"the secrets of {function} cannot be read: {error.message}"
            return Secrets(set_id, dict.fromkeys(rows, ""), unreadable=SecretsError(text, hint=error.hint))
        return Secrets(set_id, opened)

    def change_key(self, connection: sqlite3.Connection) -> tuple[str, int]:
        """Encrypt everything with a new key; its number, and how many secrets. Raises SecretsError.

        Cut off at any point, the next start goes on: the file has both keys until all rows have the new one.
        """
        self._need_key()
        self.ring.begin_change()
        return self.ring.ids[0], self._seal_again(connection)

    def _seal_again(self, connection: sqlite3.Connection) -> int:
        count = 0
        with durably(connection):  # the old key is forgotten next
            rows = connection.execute("SELECT function, secret_set, name, sealed FROM secrets").fetchall()
            for function, set_id, name, sealed in rows:
                place = (function, set_id, name)
                try:
                    again = self.ring.seal(self.ring.open(sealed, place), place)
                except SecretsError as error:
                    log.warning("a secret of %s stays as it is: %s", function, error.message)
                    continue
                connection.execute(
                    "UPDATE secrets SET sealed = ? WHERE function = ? AND secret_set = ? AND name = ?", (again, *place)
                )
                count += 1
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what the old key opens is not in the log any more
        self.ring.finish_change()
        log.info("the key of the secrets is %s now, %d secrets were encrypted again", self.ring.ids[0], count)
        return count

    def _need_key(self) -> None:
        if self._problem is not None:
            raise self._problem
        if not self.ring.ids:
            log.warning("a new key of the secrets is made: what the lost one has encrypted stays unreadable")
            self.ring.create()


def _as_problem(error: Exception, path: Path) -> SecretsError:
    if isinstance(error, SecretsError):
        return error
    return SecretsError(f"cannot read {path}: {error}", hint="mend the file's owner and mode, then restart pagurusd")


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM secrets").fetchone()[0])


def _rows(connection: sqlite3.Connection, function: str, set_id: str) -> dict[str, bytes]:
    query = "SELECT name, sealed FROM secrets WHERE function = ? AND secret_set = ?"
    return dict(connection.execute(query, (function, set_id)).fetchall())
