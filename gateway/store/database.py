"""The SQLite file: opening, schema, and the one thread that touches it.

WAL; accepted deploys are written with synchronous=FULL, records of invocations with NORMAL: after a power
cut the last records may be missing, a function never.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from runtime.errors import ConfigError

Result = TypeVar("Result")

SCHEMA_VERSION = 7
BUSY_TIMEOUT_S = 5.0

# MIGRATIONS[n] leads from schema n to n + 1.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE versions (
        function TEXT NOT NULL, id TEXT NOT NULL, code TEXT NOT NULL, environment TEXT,
        runtime TEXT NOT NULL, handler TEXT NOT NULL, limits TEXT NOT NULL, environ TEXT NOT NULL,
        requirements TEXT NOT NULL, lock TEXT NOT NULL, created_s REAL NOT NULL,
        PRIMARY KEY (function, id)
    ) WITHOUT ROWID;
    CREATE TABLE functions (
        name TEXT PRIMARY KEY, version TEXT NOT NULL, created_s REAL NOT NULL, updated_s REAL NOT NULL,
        FOREIGN KEY (name, version) REFERENCES versions (function, id)
    ) WITHOUT ROWID;
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, function TEXT NOT NULL, body TEXT NOT NULL, output TEXT
    );
    """,
    """
    ALTER TABLE versions ADD COLUMN conflicts TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE versions ADD COLUMN import_costs TEXT NOT NULL DEFAULT '{}';
    """,
    """
    ALTER TABLE versions ADD COLUMN policy TEXT NOT NULL DEFAULT '';
    """,
    """
    ALTER TABLE versions ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
    """,
    """
    ALTER TABLE versions ADD COLUMN reuse INTEGER NOT NULL DEFAULT 1;
    """,
    """
    ALTER TABLE versions ADD COLUMN secret_set TEXT NOT NULL DEFAULT '';
    CREATE TABLE secrets (
        function TEXT NOT NULL, secret_set TEXT NOT NULL, name TEXT NOT NULL, sealed BLOB NOT NULL,
        PRIMARY KEY (function, secret_set, name)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE versions ADD COLUMN egress TEXT NOT NULL DEFAULT '[]';
    """,
)


class Database:
    """One SQLite file and the thread that owns it.

    Raises ConfigError when the file is no store, damaged, or of a newer schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            self._connection = self._thread.submit(_open, path).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def run_blocking(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in the store's thread and wait for it."""
        return self._thread.submit(work, self._connection).result()

    async def run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `work` in the store's thread. Cancelled: the work is done all the same."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, self._connection)

    def close(self) -> None:
        """Finish what is queued and close the file. Idempotent."""
        try:
            self._thread.submit(self._connection.close).result()
        except RuntimeError:
            return  # closed before
        self._thread.shutdown()


def _open(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigError(f"cannot open the store {path}: {error}") from error
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        hint = "move the file away to start empty, or restore it from a copy"
        raise ConfigError(f"cannot read the store {path}: {error}", hint=hint) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"the store {path} has schema {found}, this version of pagurus knows {SCHEMA_VERSION}",
            hint="start the newer pagurus that wrote it",
        )
    for step in range(found, SCHEMA_VERSION):
        connection.executescript(f"BEGIN; {MIGRATIONS[step]} PRAGMA user_version = {step + 1}; COMMIT;")


@contextmanager
def durably(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that survives a power cut."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")
