"""Functions and their immutable versions in the store."""

import sqlite3
from typing import Any

import msgspec

from gateway.deployed import Version
from gateway.store.database import Database, durably
from gateway.store.secrets import Safe
from runtime.model import FunctionName, VersionId

VERSIONS_KEPT = 20  # of one function; older ones than these are forgotten, the current one never

_JSON_COLUMNS = ("environment", "limits", "environ", "conflicts", "import_costs", "egress")
_COLUMNS = (
    *("function", "id", "code", "environment", "runtime", "handler", "limits", "environ", "requirements", "lock"),
    *("created_s", "conflicts", "import_costs", "policy", "tenant", "reuse", "secret_set", "egress"),
)


class StoredFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function with its versions, newest first."""

    name: FunctionName
    current: VersionId
    created_s: float
    updated_s: float
    versions: tuple[Version, ...]

    @property
    def version(self) -> Version:
        """The current version."""
        return next(version for version in self.versions if version.id == self.current)


class FunctionStore:
    """Reads and writes functions. What is written is on the disk when the call returns."""

    def __init__(self, database: Database, safe: Safe) -> None:
        self._database = database
        self._safe = safe
        database.run_blocking(safe.start)

    def load(self) -> list[StoredFunction]:
        """All functions; blocks."""
        return self._database.run_blocking(lambda connection: _load(connection, self._safe))

    async def put(self, version: Version) -> StoredFunction:
        """Store `version` if it is new and make it current. Raises SecretsError."""

        def work(connection: sqlite3.Connection) -> StoredFunction:
            with durably(connection):
                self._safe.put(connection, version.function, version.secrets)
                _put(connection, version)
            return _load(connection, self._safe, version.function)[0]

        return await self._database.run(work)

    async def delete(self, name: FunctionName) -> None:
        """Forget a function and its versions. Its records stay."""

        def work(connection: sqlite3.Connection) -> None:
            with durably(connection):
                connection.execute("DELETE FROM functions WHERE name = ?", (name,))
                connection.execute("DELETE FROM versions WHERE function = ?", (name,))
                connection.execute("DELETE FROM secrets WHERE function = ?", (name,))

        await self._database.run(work)

    async def change_key(self) -> tuple[str, int]:
        """Encrypt all secrets with a new key; its number, and how many there are. Raises SecretsError."""
        return await self._database.run(self._safe.change_key)


def _put(connection: sqlite3.Connection, version: Version) -> None:
    row = (
        version.function,
        version.id,
        version.code,
        _json(version.environment) if version.environment else None,
        version.runtime,
        version.handler,
        _json(version.limits),
        _json(version.environ),
        version.requirements,
        version.lock,
        version.created_s,
        _json(version.conflicts),
        _json(version.import_costs),
        version.policy,
        version.tenant,
        version.reuse,
        version.secrets.id,
        _json(version.egress),
    )
    # The same content again is the same version, with the time of its first deploy.
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR IGNORE INTO versions VALUES ({marks})", row)  # noqa: S608 - question marks
    connection.execute(
        "INSERT INTO functions VALUES (?1, ?2, ?3, ?3)"
        " ON CONFLICT (name) DO UPDATE SET version = ?2, updated_s = ?3 WHERE version != ?2",
        (version.function, version.id, version.created_s),
    )
    connection.execute(
        "DELETE FROM versions WHERE function = ?1 AND id != ?2 AND id NOT IN"
        " (SELECT id FROM versions WHERE function = ?1 ORDER BY created_s DESC, id LIMIT ?3)",
        (version.function, version.id, VERSIONS_KEPT),
    )
    connection.execute(
        "DELETE FROM secrets WHERE function = ?1 AND secret_set NOT IN"
        " (SELECT secret_set FROM versions WHERE function = ?1)",
        (version.function,),
    )


def _load(connection: sqlite3.Connection, safe: Safe, name: FunctionName | None = None) -> list[StoredFunction]:
    versions: dict[str, list[Version]] = {}
    where = "" if name is None else "WHERE function = ?"
    arguments = () if name is None else (name,)
    columns = ", ".join(_COLUMNS)
    query = f"SELECT {columns} FROM versions {where} ORDER BY created_s DESC, id"  # noqa: S608 - constants
    for row in connection.execute(query, arguments).fetchall():
        version = _version(row)
        secrets = safe.get(connection, row[0], row[_COLUMNS.index("secret_set")])
        versions.setdefault(row[0], []).append(msgspec.structs.replace(version, secrets=secrets))
    where = where.replace("function", "name")
    query = f"SELECT name, version, created_s, updated_s FROM functions {where} ORDER BY name"  # noqa: S608
    return [
        StoredFunction(
            name=row[0], current=row[1], created_s=row[2], updated_s=row[3], versions=tuple(versions[row[0]])
        )
        for row in connection.execute(query, arguments)
    ]


def _version(row: tuple[Any, ...]) -> Version:
    values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    del values["secret_set"]
    for name in _JSON_COLUMNS:
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values | {"reuse": bool(values["reuse"])}, Version)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
