"""`pagurus logs`: what invocations printed. Runs in `pagurus`."""

from typing import Any
from urllib.parse import quote, urlencode

import click

from gateway.cli import output
from gateway.cli.client import Client, ProblemError, items


@click.command()
@click.argument("subject", metavar="ID|NAME")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Invocations of NAME.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def logs(url: str, subject: str, *, limit: int, as_json: bool) -> None:
    """Show what the invocation ID, or the last invocations of the function NAME, printed."""
    records = _find(Client(url), subject, limit)
    if as_json:
        output.print_json(records)
        return
    for record in records:
        _show(record)
    if not records:
        click.echo(f"no invocations of {subject}", err=True)


def _find(client: Client, subject: str, limit: int) -> list[dict[str, Any]]:
    """The invocation of that id, or else the function's last ones, oldest first."""
    try:
        record = client.get(f"/v1/invocations/{quote(subject, safe='')}")
        return [record] if isinstance(record, dict) else []
    except ProblemError as problem:
        if problem.status not in (400, 404, 422):
            raise
    document = client.get(f"/v1/invocations?{urlencode({'function': subject, 'limit': limit})}")
    records = items(document, "invocations")
    complete = [record if "stdout" in record else client.get(f"/v1/invocations/{record['id']}") for record in records]
    return complete[::-1]


def _show(record: dict[str, Any]) -> None:
    head = [output.text(record.get(key)) for key in ("id", "function", "status", "start_kind")]
    click.echo(click.style(f"— {' '.join(part for part in head if part != '-')}", dim=True), err=True)
    for stream in ("stdout", "stderr"):
        content = record.get(stream)
        if isinstance(content, str) and content:
            click.echo(content, nl=not content.endswith("\n"), err=stream == "stderr")
