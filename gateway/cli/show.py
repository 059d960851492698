"""`pagurus show`: one function in full. Runs in `pagurus`."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from gateway.cli import output
from gateway.cli.client import Client


@click.command()
@click.argument("name")
@click.option("--lock", "only_lock", is_flag=True, help="Print the lock of the current version and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(url: str, name: str, *, only_lock: bool, as_json: bool) -> None:
    """Show the function NAME in full: its settings, limits, packages and versions.

    The lock is what its requirements were resolved to at the deploy, with hashes: lines of a requirements.txt.
    """
    if only_lock and as_json:
        raise click.UsageError("--lock and --json exclude each other: the JSON has the lock as `lock`")
    function = Client(url).get(f"/v1/functions/{quote(name, safe='')}")
    if as_json:
        output.print_json(function)
    elif only_lock:
        lock = str(function.get("lock") or "").rstrip("\n")
        if lock:
            click.echo("\n".join(output.plain(line) for line in lock.split("\n")))
        else:
            click.echo(f"{name} requires no packages: there is no lock", err=True)
    else:
        _show(function)


def _show(function: dict[str, Any]) -> None:
    rows = list(_rows(function))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {output.plain(value)}")
    versions = [version for version in function.get("versions") or () if isinstance(version, dict)]
    click.echo()
    output.print_table(
        ("version", "deployed", "runtime", "packages", "current"),
        [_version_row(version, function.get("version")) for version in versions],
        empty="no versions",
    )


def _rows(function: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("name", "tenant", "version", "runtime", "handler"):
        yield key, output.text(function.get(key))
    for key in ("created", "updated"):
        yield key, output.moment(function.get(key))
    yield "sandboxes", "reused" if function.get("reuse", True) else "fresh: one for each invocation"
    yield "code", output.text(function.get("code"))
    for key, value in (function.get("limits") or {}).items():
        yield key, output.size(value) if key.endswith("_bytes") else output.text(value)
    yield "variables", _words(function.get("environ"))
    egress = function.get("egress")
    yield "egress", _words(egress) if isinstance(egress, list) else output.text(egress)
    yield "secrets", _words(function.get("secrets"))
    yield "environment", output.text(function.get("environment"))
    yield "imports", _words(function.get("imports"))
    distributions = list(function.get("distributions") or ())
    for number, distribution in enumerate(distributions or ["-"]):
        yield "packages" if number == 0 else "", str(distribution)


def _version_row(version: dict[str, Any], current: Any) -> list[str]:
    return [
        output.short(version.get("version")),
        output.moment(version.get("deployed")),
        output.text(version.get("runtime")),
        str(len(version.get("distributions") or ())),
        "yes" if version.get("version") == current else "",
    ]


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values or ()) or "-"
