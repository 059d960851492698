"""Functions and versions on the disk."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.deployed import Version
from gateway.store.database import Database
from gateway.store.functions import VERSIONS_KEPT, FunctionStore
from gateway.store.secrets import Safe
from runtime.model import Distribution, Environment, Limits


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "store.sqlite3")
    yield found
    found.close()


def version(number: int, function: str = "hello") -> Version:
    environment = Environment(id="e" * 64, runtime="python3.11", distributions=(Distribution("six", "1"),))
    return Version(
        function=function,
        id=f"{number:064x}",
        code="c" * 64,
        environment=environment if number % 2 else None,
        runtime="python3.11",
        handler="main.main",
        limits=Limits(timeout_s=float(number + 1)),
        environ={"A": "b"},
        requirements="six",
        lock="six==1",
        created_s=float(number),
    )


def test_what_is_put_is_loaded_again(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    for number in (1, 2):
        asyncio.run(store.put(version(number)))
    asyncio.run(store.put(version(7, "other")))
    hello, other = store.load()
    assert (hello.name, hello.version, hello.created_s, hello.updated_s) == ("hello", version(2), 1.0, 2.0)
    assert hello.versions == (version(2), version(1))
    assert other.version == version(7, "other")


def test_egress_is_kept(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    wanted = msgspec.structs.replace(version(1), egress=("internet", "10.0.0.0/8:80"))
    asyncio.run(store.put(wanted))
    (found,) = store.load()
    assert found.version == wanted
    assert found.version.assignment.egress == ("internet", "10.0.0.0/8:80")


def test_whether_sandboxes_are_reused_is_kept(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    wanted = msgspec.structs.replace(version(1), reuse=False)
    asyncio.run(store.put(wanted))
    (found,) = store.load()
    assert found.version == wanted and found.version.reuse is False
    assert found.version.model.reuse is False


def test_an_old_version_can_be_current_again(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    for number in (1, 2):
        asyncio.run(store.put(version(number)))
    again = asyncio.run(store.put(msgspec.structs.replace(version(1), created_s=9.0)))
    assert again.current == version(1).id
    assert [one.created_s for one in again.versions] == [2.0, 1.0]
    assert again.updated_s == 9.0


def test_old_versions_are_forgotten_but_never_the_current_one(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    for number in range(VERSIONS_KEPT + 3):
        found = asyncio.run(store.put(version(number)))
    assert len(found.versions) == VERSIONS_KEPT
    found = asyncio.run(store.put(msgspec.structs.replace(version(0), created_s=0.5)))
    assert found.version.id == version(0).id


def test_deleted_is_gone(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    asyncio.run(store.put(version(1)))
    asyncio.run(store.delete("hello"))
    assert store.load() == []
    asyncio.run(store.delete("hello"))


def test_a_failed_write_changes_nothing(database: Database):
    store = FunctionStore(database, Safe(database.path.with_name("secrets.key")))
    asyncio.run(store.put(version(1)))
    database.run_blocking(lambda one: one.execute("DROP TABLE functions"))
    with pytest.raises(Exception, match="no such table"):
        asyncio.run(store.put(version(2)))
    count = database.run_blocking(lambda one: one.execute("SELECT count(*) FROM versions").fetchone())
    assert count == (1,)
