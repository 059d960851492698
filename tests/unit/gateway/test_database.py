"""Opening the store: new, again, damaged, newer."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.store.database import MIGRATIONS, SCHEMA_VERSION, Database
from runtime.errors import ConfigError


def test_a_new_store_gets_the_schema_and_opens_again(tmp_path: Path):
    for _ in range(2):
        database = Database(tmp_path / "store.sqlite3")
        version = database.run_blocking(lambda one: one.execute("PRAGMA user_version").fetchone())
        mode = database.run_blocking(lambda one: one.execute("PRAGMA journal_mode").fetchone())
        assert (version, mode) == ((SCHEMA_VERSION,), ("wal",))
        database.close()
        database.close()


def test_functions_of_an_old_store_reuse_their_sandboxes_and_have_no_egress(tmp_path: Path):
    path = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        for step in MIGRATIONS[:3]:
            connection.executescript(step)
        connection.execute(
            "INSERT INTO versions VALUES ('f', 'v', 'c', NULL, 'python3.11', 'main.main', '{}', '{}', '', '', 1.0,"
            " '[]', '{}', '')"
        )
        connection.execute("PRAGMA user_version = 3")
    connection.close()
    database = Database(path)
    found = database.run_blocking(lambda one: one.execute("SELECT reuse, egress FROM versions").fetchall())
    assert found == [(1, "[]")]
    database.close()


def test_a_newer_schema_is_refused(tmp_path: Path):
    path = tmp_path / "store.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        Database(path)


def test_a_damaged_store_is_named(tmp_path: Path):
    path = tmp_path / "store.sqlite3"
    path.write_bytes(b"this is no database, however you look at it" * 100)
    with pytest.raises(ConfigError, match=r"cannot read the store .*store.sqlite3"):
        Database(path)


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot open the store"):
        Database(tmp_path / "missing" / "store.sqlite3")
