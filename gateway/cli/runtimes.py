"""`pagurus runtimes`: the Python versions of the node, and adding and removing one. Runs in `pagurus`."""

from typing import Any
from urllib.parse import quote

import click

from gateway.cli import output, progress
from gateway.cli.client import Client, items


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the full digests.")
@click.pass_context
def runtimes(ctx: click.Context, *, as_json: bool) -> None:
    """List the Python versions that functions can run on, or add or remove one.

    A runtime is Debian's own interpreter with its libraries, from the release in the column SUITE, the same bit by bit
    whenever and wherever it is built from the same packages. `pagurus deploy --runtime NAME` chooses one.
    """
    if ctx.invoked_subcommand is not None:
        return
    document = Client(ctx.obj).get("/v1/runtimes")
    if as_json:
        output.print_json(document)
        return
    columns = ("runtime", "python", "suite", "state", "size", "packages", "digest", "functions", "zygote", "default")
    rows = [_row(runtime) for runtime in items(document, "runtimes")]
    output.print_table(columns, rows, empty="no runtimes")
    for runtime in items(document, "runtimes"):
        if runtime.get("zygote") == "failed":
            click.echo(f"{runtime.get('name')}: its base zygote failed: {output.plain(str(runtime['zygote_reason']))}")


def _row(runtime: dict[str, Any]) -> list[str]:
    return [
        output.text(runtime.get("name")),
        output.text(runtime.get("python_version")),
        output.text(runtime.get("suite")),
        output.text(runtime.get("state")),
        output.size(runtime.get("disk_bytes")),
        output.text(runtime.get("packages")),
        output.short(runtime.get("digest")),
        str(len(runtime.get("functions") or ())),
        output.text(runtime.get("zygote")),
        "yes" if runtime.get("default") else "",
    ]


@runtimes.command("add", short_help="Build a runtime and start its base zygote.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the runtime as JSON and nothing else.")
@click.pass_obj
def add(url: str, name: str, *, as_json: bool) -> None:
    """Build the runtime NAME, such as python3.13, and start its base zygote.

    Takes some seconds and about 75 MB; functions can use it at once. What is there already is not built again.
    Ctrl-C stops the build, and nothing of it stays.
    """
    headers = {"Accept": progress.NDJSON}
    answer = Client(url).request("POST", f"/v1/runtimes/{quote(name, safe='')}", headers=headers)
    runtime = progress.follow(answer, "runtime", as_json=as_json)
    if as_json:
        output.print_json(runtime)
    else:
        version, digest = output.text(runtime.get("python_version")), output.short(runtime.get("digest"))
        click.echo(f"{name}: ready, Python {version}, digest {digest}")
        click.echo(f"try: pagurus deploy NAME PATH --runtime {name}")


@runtimes.command("rm", short_help="Remove a runtime that no function runs on.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def remove(url: str, name: str, *, as_json: bool) -> None:
    """Remove the runtime NAME, if no function runs on it and it is not the last one.

    Older versions of functions do not keep it: add it again before one of them is to run.
    """
    answer = Client(url).request("DELETE", f"/v1/runtimes/{quote(name, safe='')}")
    if answer.status != 204:
        raise answer.problem()
    answer.close()
    if as_json:
        output.print_json({"removed": name})
    else:
        click.echo(f"{name}: removed")
