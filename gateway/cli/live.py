"""What `pagurus status NAME` prints: a function's pool, who can help it, the policy's reasons. Runs in `pagurus`."""

import json
from collections.abc import Iterator
from typing import Any

import click

from gateway.cli import output

Row = dict[str, Any]


def show(document: Row) -> None:
    """Print a document of GET /v1/functions/{name}/status."""
    rows = list(_rows(document))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {output.plain(value)}")
    click.echo()
    zygotes = [zygote for zygote in document.get("zygotes") or () if isinstance(zygote, dict)]
    columns = ("zygote", "state", "start", "preferred", "made for it", "standbys", "owner", "why")
    output.print_table(columns, [_zygote_row(zygote) for zygote in zygotes], empty="no zygote can start it")


def _rows(document: Row) -> Iterator[tuple[str, str]]:
    for key in ("name", "tenant", "version", "runtime"):
        yield key, output.text(document.get(key))
    if document.get("obstacle"):
        yield "no zygote", output.text(document["obstacle"])
    pool = document.get("pool") or {}
    yield "pool", ", ".join(f"{count} {state}" for state, count in pool.items() if count) or "empty"
    following = document.get("next_start")
    yield "next start", _next_start(following) if following else "-"
    for kind, start in (document.get("last_starts") or {}).items():
        took = f"{output.text(start.get('duration_ms'))} ms in all"
        yield f"last {kind}", f"{output.moment(start.get('started'))}, {took}, invocation {start.get('invocation')}"
    yield "policy", output.text(document.get("policy"))
    for key, value in _leaves(document.get("decisions") or {}):
        yield f"  {key}", value


def _next_start(following: Row) -> str:
    how = f"standby {following['standby']}" if following.get("standby") else "a fork"
    return f"{following.get('kind')}: {how} of {following.get('zygote')}"


def _leaves(values: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values by their dotted name."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", " ".join(_word(one) for one in value) or "-"
        else:
            yield f"{prefix}{key}", output.size(value) if key.endswith("_bytes") else output.text(value)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _zygote_row(zygote: Row) -> list[str]:
    return [
        output.text(zygote.get("id")),
        output.text(zygote.get("state")),
        output.text(zygote.get("kind")),
        "yes" if zygote.get("is_preferred") else "",
        "yes" if zygote.get("is_meant") else "",
        output.text(zygote.get("standbys")),
        output.text(zygote.get("owner")),
        output.text(zygote.get("why")),
    ]
