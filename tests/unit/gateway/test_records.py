"""Records: readable at once, on the disk soon, bounded."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.invocation import Failure, Invocation, UserError
from gateway.output import OutputLog
from gateway.store import records as module
from gateway.store.database import Database
from gateway.store.records import RecordStore, record_of
from runtime.model import StartKind


def ended(number: int, *, failure: Failure | None = None, function: str = "hello") -> Invocation:
    invocation = Invocation(
        function,
        "v" * 64,
        b"1",
        now_s=1.0,
        wall_s=float(number),
        timeout_s=1.0,
        output=OutputLog(100),
        future=asyncio.get_running_loop().create_future(),
    )
    invocation.kind = StartKind.WARM
    invocation.failure = failure
    invocation.result = None if failure else b"1"
    invocation.phases_ms = {"queue": 0.1, "run": 1.0, "total": 2.0}
    invocation.output.add(0, b"out \0 \xc3\xa9 'quoted' \"too\"\n")
    return invocation


def with_store(tmp_path: Path, scenario: Callable[[RecordStore], Awaitable[None]], kept: int = 100) -> None:
    async def run() -> None:
        database = Database(tmp_path / "store.sqlite3")
        try:
            await scenario(RecordStore(database, kept))
        finally:
            database.close()

    asyncio.run(run())


def test_a_record_is_the_same_from_memory_and_from_the_disk(tmp_path: Path):
    async def scenario(store: RecordStore) -> None:
        user = UserError(type="ValueError", message="no", traceback="Traceback")
        one = ended(1, failure=Failure(word="function-exception", detail="it raised", error=user))
        store.add(one)
        fresh = await store.get(one.id)
        await store.flush()
        stored = await store.get(one.id)
        assert stored == fresh
        assert fresh.stdout == one.output.stdout
        fresh.stdout = ""
        assert fresh == record_of(one)
        assert stored.error == user

    with_store(tmp_path, scenario)


def test_the_newest_come_first_and_can_be_filtered(tmp_path: Path):
    async def scenario(store: RecordStore) -> None:
        for number in range(5):
            store.add(ended(number, function="even" if number % 2 == 0 else "odd"))
        found = await store.newest(None, 3)
        assert [one.started_s for one in found] == [4, 3, 2]
        assert [one.started_s for one in await store.newest("odd", 10)] == [3, 1]
        assert found[0].stdout == ""

    with_store(tmp_path, scenario)


def test_the_table_is_bounded(tmp_path: Path):
    async def scenario(store: RecordStore) -> None:
        for number in range(25):
            store.add(ended(number))
            if number % 5 == 4:
                await store.flush()
        assert [one.started_s for one in await store.newest(None, 100)] == list(range(24, 14, -1))

    with_store(tmp_path, scenario, kept=10)


def test_the_backlog_is_bounded_and_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_MAX", 10)

    async def scenario(store: RecordStore) -> None:
        for number in range(15):
            store.add(ended(number))
        assert store.lost_count == 5
        assert len(await store.newest(None, 100)) == 10

    with_store(tmp_path, scenario)


def test_a_write_that_fails_is_counted(tmp_path: Path, caplog):
    async def scenario(store: RecordStore) -> None:
        store._database.run_blocking(lambda one: one.execute("DROP TABLE records"))
        store.add(ended(1))
        await store.flush()
        assert store.lost_count == 1

    with_store(tmp_path, scenario)
    assert "cannot write 1 records" in caplog.text


def test_many_records_are_written_by_the_task(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 1000)

    async def scenario(store: RecordStore) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.run())
            some = [ended(number) for number in range(module.BATCH_ROWS)]
            for one in some:
                store.add(one)
            async with asyncio.timeout(30):
                while store._fresh or store._writing:
                    await asyncio.sleep(0.001)
            task.cancel()
        assert (await store.get(some[7].id)).started_s == 7
        assert await store.get("nobody") is None

    with_store(tmp_path, scenario, kept=1000)
