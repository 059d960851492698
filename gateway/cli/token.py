"""`pagurus token`: who may use this node over HTTP. Runs in `pagurus`, as root: it changes the node's file itself."""

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.cli import output
from runtime import config, tokens
from runtime.model import FUNCTION_NAME_PATTERN, FunctionName
from runtime.tokens import Role, Token

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_lifetime(value: str) -> float:
    """Seconds of a duration such as 90d, 12h or 30m."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration such as 90d, 12h or 30m")
    return int(match[1]) * _UNITS_S[match[2]]


def parse_function(value: str) -> FunctionName:
    """A function's name."""
    if not FUNCTION_NAME_PATTERN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no name of a function")
    return FunctionName(value)


@click.group("token")
@click.option("--state-dir", help="State directory of the node.  [default: as pagurusd's settings say]")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Settings file of pagurusd.")
@click.pass_context
def token(ctx: click.Context, state_dir: str | None, config_path: Path | None) -> None:
    """Make, list and remove tokens, as root on the node itself. A running pagurusd heeds changes within seconds.

    On a loopback address the node is open to all users of the machine until there is a token; on any other address
    pagurusd does not start without one.
    """
    ctx.obj = tokens.file_of(config.load(config_path, os.environ, {"state_dir": state_dir}))


@token.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in Role]), default="admin", show_default=True)
@click.option(
    "--function",
    "functions",
    type=parse_function,
    metavar="FUNCTION",
    multiple=True,
    help="With role invoke: only this; repeatable.",
)
@click.option("--expires", type=parse_lifetime, metavar="DURATION", help="Such as 90d, 12h or 30m.  [default: never]")
@click.pass_obj
def create(path: Path, name: str, *, role: str, functions: tuple[FunctionName, ...], expires: float | None) -> None:
    """Make a token and print it. It is shown this once: only its digest is kept."""
    expires_s = None if expires is None else time.time() + expires
    made = tokens.create(path, name, role=Role(role), functions=functions, expires_s=expires_s)
    click.echo(f"token {name}, role {role}; it is not shown again:", err=True)
    click.echo(made)


@token.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_tokens(path: Path, *, as_json: bool) -> None:
    """List the tokens: names, roles and times."""
    found = tokens.load(path)
    if as_json:
        output.print_json([_resource(one) for one in found])
        return
    now_s = time.time()
    rows = [
        (
            one.name,
            one.role.value,
            " ".join(one.functions) or "all",
            _date(one.created_s),
            (_date(one.expires_s) if one.is_live(now_s) else "expired") if one.expires_s is not None else "never",
        )
        for one in found
    ]
    output.print_table(("NAME", "ROLE", "FUNCTIONS", "CREATED", "EXPIRES"), rows, empty="no tokens")


@token.command("rm")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def remove(path: Path, names: tuple[str, ...]) -> None:
    """Remove tokens."""
    for name in names:
        tokens.remove(path, name)
        click.echo(f"token {name}: removed")
    if not tokens.load(path):
        click.echo(
            "no tokens are left: on a loopback address the node is open now, on others it refuses everybody", err=True
        )


def _resource(one: Token) -> dict[str, object]:
    return {
        "name": one.name,
        "role": one.role.value,
        "functions": list(one.functions),
        "created": _date(one.created_s),
        "expires": None if one.expires_s is None else _date(one.expires_s),
    }


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
