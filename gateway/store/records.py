"""Records of invocations: in memory at once, in SQLite a moment later, the oldest forgotten.

A batch goes to SQLite as one JSON text and one statement, so that the store's thread does not compete with
the event loop for the interpreter's lock, row by row.
"""

import asyncio
import logging
import sqlite3

import msgspec

from gateway.invocation import Invocation, UserError
from gateway.output import OutputLog
from gateway.store.database import Database

log = logging.getLogger(__name__)

FLUSH_EVERY_S = 1.0  # what the death of the gateway may cost; who reads records has them written first
BATCH_ROWS = 5000
PRUNE_PARTS = 20  # the table may be longer than its limit by one of so many parts
STEP_ROWS = 50
BACKLOG_MAX = 50_000  # when the disk stands still, older records are lost, with a count


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One ended invocation, as it is stored and as the API shows it. error_type: word of the problem."""

    id: str
    function: str
    version: str
    status: str
    error_type: str | None
    start_kind: str | None
    phases: dict[str, float]
    error: UserError | None
    started_s: float
    duration_ms: float
    start_note: str = ""
    stdout: str = ""
    stderr: str = ""


class _Body(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a row holds beside id, function and output: all of a Record that cannot be told from the rest.

    Short, because it is written for each warm invocation: the length decides what a record costs.
    """

    version: str
    started_s: float
    start_kind: str | None = None
    phases: dict[str, float] = {}
    error_type: str | None = None
    error: UserError | None = None
    start_note: str = ""

    def record(self, invocation_id: str, function: str) -> Record:
        return Record(
            id=invocation_id,
            function=function,
            version=self.version,
            status="succeeded" if self.error_type is None else "failed",
            error_type=self.error_type,
            start_kind=self.start_kind,
            start_note=self.start_note,
            phases=self.phases,
            error=self.error,
            started_s=self.started_s,
            duration_ms=self.phases.get("total", 0.0),
        )


class _Output(msgspec.Struct):
    stdout: str = ""
    stderr: str = ""


_encoder = msgspec.json.Encoder()
_body = msgspec.json.Decoder(_Body)
_head = msgspec.json.Decoder(tuple[str, str, _Body])
_output = msgspec.json.Decoder(_Output)
_Fresh = tuple[bytes, OutputLog]  # JSON of a row up to its last cell, which is the output


class RecordStore:
    """Queue and table of records. `kept`: rows in the table."""

    def __init__(self, database: Database, kept: int) -> None:
        self.lost_count = 0
        self._database = database
        self._kept = kept
        self._fresh: dict[str, _Fresh] = {}
        self._writing: dict[str, _Fresh] = {}
        self._unpruned = kept  # the table may be of a time with a larger limit
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()

    def add(self, invocation: Invocation) -> None:
        """Remember an ended invocation; it is written soon, with what it has written by then.

        Encoded at once: thousands of live invocations would cost the collector and the caches more.
        """
        head = _encoder.encode((invocation.id, invocation.function, _body_of(invocation)))[:-1]
        self._fresh[invocation.id] = (head, invocation.output)
        if len(self._fresh) == BATCH_ROWS:
            self._wake.set()
        elif len(self._fresh) > BACKLOG_MAX:
            del self._fresh[next(iter(self._fresh))]
            self.lost_count += 1

    async def run(self) -> None:
        """Write batches until cancelled."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write all that is fresh. A failure is logged; the batch is lost."""
        async with self._lock:
            if not self._fresh:
                return
            batch = self._writing = self._fresh
            self._fresh = {}
            try:
                rows = await _encode(list(batch.values()))
                await self._database.run(lambda connection: _insert(connection, rows))
                self._unpruned += len(batch)
                if self._unpruned > self._kept // PRUNE_PARTS:
                    await self._database.run(lambda connection: _prune(connection, self._kept))
                    self._unpruned = 0
            except sqlite3.Error as error:
                self.lost_count += len(batch)
                log.error("cannot write %d records: %s", len(batch), error)
            finally:
                self._writing = {}

    async def get(self, invocation_id: str) -> Record | None:
        """One record, wherever it is."""
        fresh = self._fresh.get(invocation_id) or self._writing.get(invocation_id)
        if fresh is not None:
            head, output = fresh
            known_id, function, body = _head.decode(head + b"]")
            record = body.record(known_id, function)
            record.stdout, record.stderr = output.stdout, output.stderr
            return record
        found = await self._database.run(
            lambda connection: _select(connection, "WHERE id = ?", (invocation_id,), with_output=True)
        )
        return found[0] if found else None

    async def newest(self, function: str | None, limit: int) -> list[Record]:
        """The newest records, newest first, without their output."""
        await self.flush()
        where, arguments = ("", ()) if function is None else ("WHERE function = ?", (function,))
        clause = f"{where} ORDER BY seq DESC LIMIT {limit:d}"
        return await self._database.run(lambda connection: _select(connection, clause, arguments, with_output=False))


def record_of(invocation: Invocation) -> Record:
    """The record of an ended invocation, without its output."""
    return _body_of(invocation).record(invocation.id, invocation.function)


def _body_of(invocation: Invocation) -> _Body:
    failure = invocation.failure
    return _Body(
        version=invocation.version,
        started_s=invocation.started_wall_s,
        start_kind=invocation.kind,
        start_note=invocation.note,
        phases=invocation.phases_ms,
        error_type=failure.word if failure else None,
        error=failure.error or UserError(type=failure.word, message=failure.detail) if failure else None,
    )


async def _encode(batch: list[_Fresh]) -> str:
    """The batch as one JSON text, in small steps: a long one would hold up the invocations."""
    parts = []
    for start in range(0, len(batch), STEP_ROWS):
        parts.append(b",".join([head + _output_cell(output) for head, output in batch[start : start + STEP_ROWS]]))
        await asyncio.sleep(0)
    return (b"[" + b",".join(parts) + b"]").decode()


def _output_cell(output: OutputLog) -> bytes:
    if not output.total_bytes:
        return b",null]"
    text = msgspec.json.encode(_Output(output.stdout, output.stderr)).decode()
    return b"," + msgspec.json.encode(text) + b"]"


def _insert(connection: sqlite3.Connection, rows: str) -> None:
    # One statement, one transaction: each further one would ask the event loop for the interpreter's lock.
    connection.execute(
        "INSERT OR REPLACE INTO records (id, function, body, output)"
        " SELECT value ->> 0, value ->> 1, value -> 2, value ->> 3 FROM json_each(?)",
        (rows,),
    )


def _prune(connection: sqlite3.Connection, kept: int) -> None:
    connection.execute("DELETE FROM records WHERE seq <= (SELECT max(seq) FROM records) - ?", (kept,))


def _select(
    connection: sqlite3.Connection, clause: str, arguments: tuple[str, ...], *, with_output: bool
) -> list[Record]:
    output = "output" if with_output else "NULL"
    records = []
    rows = connection.execute(f"SELECT id, function, body, {output} FROM records {clause}", arguments)  # noqa: S608
    for invocation_id, function, body, text in rows:
        record = _body.decode(body).record(invocation_id, function)
        if text is not None:
            found = _output.decode(text)
            record.stdout, record.stderr = found.stdout, found.stderr
        records.append(record)
    return records
