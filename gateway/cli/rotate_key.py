"""`pagurus rotate-key`: another key for the secrets at rest. Runs in `pagurus`."""

import json

import click

from gateway.cli import output
from gateway.cli.client import Client


@click.command("rotate-key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate_key(url: str, *, as_json: bool) -> None:
    """Make a new key for the secrets of all functions, encrypt them with it, and forget the old key.

    Functions run on meanwhile. Make a new copy of the key file afterwards: secrets.key beside the database.
    """
    answer = Client(url).request("POST", "/v1/rotate-key")
    if answer.status != 200:
        raise answer.problem()
    found = json.loads(answer.read())
    if as_json:
        output.print_json(found)
    else:
        click.echo(f"the key is {found['key']} now; secrets encrypted again: {found['secrets']}")
