"""`pagurus ls`, `ps` and `rm`: functions, sandboxes and zygotes as tables. Runs in `pagurus`."""

from typing import Any
from urllib.parse import quote

import click

from gateway.cli import output, tree
from gateway.cli.client import Client, ProblemError, items


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_functions(url: str, *, as_json: bool) -> None:
    """List the functions."""
    document = Client(url).get("/v1/functions")
    if as_json:
        output.print_json(document)
        return
    rows = [_function_row(function) for function in items(document, "functions")]
    columns = ("name", "tenant", "version", "runtime", "handler", "memory", "packages", "created")
    output.print_table(columns, rows, empty="no functions; `pagurus deploy NAME PATH` makes one")


def _function_row(function: dict[str, Any]) -> list[str]:
    limits = function.get("limits") or {}
    return [
        output.text(function.get("name")),
        output.text(function.get("tenant")),
        output.short(function.get("version")),
        output.text(function.get("runtime")),
        output.text(function.get("handler")),
        output.size(limits.get("memory_bytes")),
        str(len(function.get("distributions") or ())),
        output.moment(function.get("created")),
    ]


@click.command("ps")
@click.option("--tree", "as_tree", is_flag=True, help="Show who came from whom: runtimes, zygotes, sandboxes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --tree nested.")
@click.pass_obj
def list_sandboxes(url: str, *, as_tree: bool, as_json: bool) -> None:
    """List the live sandboxes and zygotes."""
    client = Client(url)
    sandboxes = items(client.get("/v1/sandboxes"), "sandboxes")
    zygotes = items(client.get("/v1/zygotes"), "zygotes")
    if as_tree:
        trees = tree.forest(sandboxes, zygotes)
        if as_json:
            output.print_json({"runtimes": trees})
        else:
            click.echo("\n".join(tree.lines(trees)) or "no zygotes")
        return
    if as_json:
        output.print_json({"sandboxes": sandboxes, "zygotes": zygotes})
        return
    output.print_table(
        ("sandbox", "function", "state", "memory", "pid", "uid", "zygote"),
        [_sandbox_row(sandbox) for sandbox in sandboxes],
        empty="no sandboxes",
    )
    click.echo()
    output.print_table(
        ("zygote", "runtime", "state", "memory", "standbys", "functions", "imports"),
        [_zygote_row(zygote) for zygote in zygotes],
        empty="no zygotes",
    )


def _sandbox_row(sandbox: dict[str, Any]) -> list[str]:
    return [
        output.text(sandbox.get("id")),
        output.text(sandbox.get("function")),
        output.text(sandbox.get("state")),
        output.size(sandbox.get("memory_bytes")),
        output.text(sandbox.get("pid")),
        output.text(sandbox.get("uid")),
        output.text(sandbox.get("zygote")),
    ]


def _zygote_row(zygote: dict[str, Any]) -> list[str]:
    return [
        output.text(zygote.get("id")),
        output.text(zygote.get("runtime")),
        output.text(zygote.get("state")),
        output.size(zygote.get("memory_bytes")),
        output.text(zygote.get("standbys")),
        _words(zygote.get("functions")),
        _words(zygote.get("imports")),
    ]


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values or ()) or "-"


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def remove(url: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """Remove functions, all their versions and sandboxes. Goes on after one that fails."""
    client = Client(url)
    problems: dict[str, ProblemError] = {}
    for name in dict.fromkeys(names):
        answer = client.request("DELETE", f"/v1/functions/{quote(name, safe='')}")
        if answer.status in (200, 202, 204):
            answer.close()
        else:
            problems[name] = answer.problem()
        if not as_json and name not in problems:
            click.echo(f"{name}: removed")
    if as_json:
        removed = [name for name in dict.fromkeys(names) if name not in problems]
        failed = {name: problem.document for name, problem in problems.items()}
        output.print_json({"removed": removed, "failed": failed})
    else:
        for problem in problems.values():
            click.echo(problem.describe(), err=True)
    if problems:
        raise SystemExit(1)
