"""`pagurus status`: what the node says of itself, or of one function. Runs in `pagurus`."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from gateway.cli import live, output
from gateway.cli.client import Client


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(url: str, name: str | None, *, as_json: bool) -> None:
    """Show the state of the node, or the live view of the function NAME.

    The live view: its sandboxes by state and who waits for one; what a start would take now, and the zygotes that can
    start it; its last start of each kind; and what the policy knows of it and why it decided what it did.
    """
    path = "/v1/status" if name is None else f"/v1/functions/{quote(name, safe='')}/status"
    document = Client(url).get(path)
    if as_json or not isinstance(document, dict):
        output.print_json(document)
        return
    if name is not None:
        live.show(document)
        return
    rows = list(_rows(document))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {output.plain(value)}")


def _rows(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of the document by their dotted name; sizes in units."""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if key == "checks" and isinstance(value, list):
            failed = [str(check.get("name")) for check in value if isinstance(check, dict) and not check.get("ok")]
            yield name, f"{len(value) - len(failed)} of {len(value)} passed" + _without(failed)
        elif isinstance(value, dict):
            yield from _rows(value, f"{name}.")
        elif isinstance(value, list):
            yield name, _listed(value)
        else:
            yield name, output.size(value) if key.endswith("_bytes") else output.text(value)


def _without(failed: list[str]) -> str:
    return f"; not {', '.join(failed)}: see `pagurus doctor`" if failed else ""


def _listed(values: list[Any]) -> str:
    """Short lists of plain values in words, others by their length."""
    if all(isinstance(value, str | int | float) for value in values) and len(values) <= 8:
        return " ".join(str(value) for value in values) or "-"
    return f"{len(values)} entries"
