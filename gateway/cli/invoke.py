"""`pagurus invoke`: one call, its result, and how it went. Runs in `pagurus`."""

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from gateway.cli import output
from gateway.cli.client import Answer, Client

PHASE_PATTERN = re.compile(r"([A-Za-z0-9_-]+)(?:;[^,]*?dur=([0-9.]+))?")


@click.command()
@click.argument("name")
@click.argument("parameter", required=False)
@click.option("-d", "--data", help="The parameter; @FILE reads it from a file, @- from standard input.")
@click.option("-v", "--verbose", is_flag=True, help="Say on standard error how it started and what took how long.")
@click.option("--json", "as_json", is_flag=True, help="Print result, id, start kind and phases as one JSON document.")
@click.pass_obj
def invoke(url: str, name: str, parameter: str | None, *, data: str | None, verbose: bool, as_json: bool) -> None:
    """Invoke the function NAME with PARAMETER, a JSON value (default null), and print its result.

    Without PARAMETER, JSON that is piped in is the parameter.
    """
    body = _parameter(parameter, data)
    answer = Client(url).request(
        "POST",
        f"/v1/functions/{quote(name, safe='')}/invocations",
        body=body,
        headers={"Content-Type": "application/json"},
    )
    how = {
        "invocation": answer.headers.get("X-Pagurus-Invocation-Id"),
        "start_kind": answer.headers.get("X-Pagurus-Start-Kind"),
        "phases_ms": phases_ms(answer.headers.get("Server-Timing", "")),
    }
    if answer.status != 200:
        _fail(answer, how, verbose=verbose, as_json=as_json)
    result = answer.read()
    if as_json:
        output.print_json({"result": json.loads(result), **how})
        return
    click.echo(_shown(result))
    if verbose:
        _describe(how)


def phases_ms(header: str) -> dict[str, float]:
    """The metrics of a Server-Timing header: name -> milliseconds, in the header's order."""
    matches = (PHASE_PATTERN.match(part.strip()) for part in header.split(","))
    return {match[1]: float(match[2]) for match in matches if match and match[2]}


def _parameter(argument: str | None, data: str | None) -> bytes:
    if argument is not None and data is not None:
        raise click.UsageError("give the parameter as an argument or by --data, not both")
    given = data if argument is None else argument
    if given is None:
        body = _piped()
    elif given in ("-", "@-"):
        body = sys.stdin.buffer.read()
    elif data is not None and given.startswith("@"):
        try:
            body = Path(given[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"cannot read {given[1:]}: {error.strerror}") from error
    else:
        body = given.encode()
    if not body.strip():
        return b"null"
    try:
        json.loads(body)
    except ValueError as error:
        raise click.UsageError(f"the parameter is no JSON: {error}; a text needs quotes: '\"text\"'") from error
    return body


def _piped() -> bytes:
    """What a pipe or a file brings on standard input; nothing from a terminal or /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return b""
    return sys.stdin.buffer.read() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else b""


def _shown(result: bytes) -> str:
    if not output.is_terminal():
        return result.decode()
    return json.dumps(json.loads(result), indent=2, ensure_ascii=False)


def _describe(how: dict[str, Any]) -> None:
    phases = "  ".join(f"{name} {duration:.2f}" for name, duration in how["phases_ms"].items())
    click.echo(
        f"invocation {how['invocation'] or '-'}  start {how['start_kind'] or '-'}  ms: {phases or '-'}", err=True
    )


def _fail(answer: Answer, how: dict[str, Any], *, verbose: bool, as_json: bool) -> None:
    """Say what went wrong and end with status 1. A failure of the user's code is shown as Python shows it."""
    problem = answer.problem()
    if as_json:
        output.print_json({"problem": problem.document, **how})
        raise SystemExit(1)
    if not problem.traceback:
        raise problem
    click.echo(problem.traceback.rstrip("\n"), err=True)
    if verbose:
        _describe(how)
    raise SystemExit(1)
