"""How `pagurus` shows things: JSON for scripts, tables and units for people. Runs in `pagurus`."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """The value as one JSON document, for scripts."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Columns padded to their widest cell; the last one is free. `empty` is said when there is no row.

    Not rich: loading its tables would take longer than all else that `pagurus ls` does.
    """
    if not rows:
        click.echo(empty)
        return
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    for number, line in enumerate([[column.upper() for column in columns], *cells]):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        click.echo(click.style(text, bold=True) if number == 0 else text)


def plain(text: str) -> str:
    """The text without what would break a line or drive the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def size(value: Any) -> str:
    """Bytes for people: 268435456 -> 256 MiB; '-' when unknown."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-"
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if amount == int(amount) or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")


def moment(value: Any) -> str:
    """A time stamp of the gateway (RFC 3339, UTC) to the second."""
    return text(value).partition(".")[0].replace("T", " ").rstrip("Z")


def text(value: Any) -> str:
    """Any JSON value in a cell."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return value if isinstance(value, str) else json.dumps(value)


def short(value: Any) -> str:
    """The first twelve characters of a digest."""
    return text(value)[:12]


def is_terminal() -> bool:
    """Whether a person reads along."""
    return sys.stdout.isatty()
