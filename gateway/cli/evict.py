"""`pagurus evict`: end idle sandboxes now. Runs in `pagurus`."""

import json
from urllib.parse import quote

import click

from gateway.cli import output
from gateway.cli.client import Client, ProblemError


@click.command("evict")
@click.argument("names", nargs=-1, required=True, metavar="NAME|SANDBOX...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def evict(url: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """End the idle sandboxes of functions, or single sandboxes, so that their memory is free.

    What runs an invocation stays. Goes on after one that fails.
    """
    client = Client(url)
    ended: dict[str, int] = {}
    problems: dict[str, ProblemError] = {}
    for name in dict.fromkeys(names):
        try:
            ended[name] = _evict_one(client, name)
        except ProblemError as problem:
            problems[name] = problem
    if as_json:
        output.print_json({"ended": ended, "failed": {name: one.document for name, one in problems.items()}})
    else:
        for name, count in ended.items():
            click.echo(f"{name}: {count} {'sandbox' if count == 1 else 'sandboxes'} ended")
        for one in problems.values():
            click.echo(one.describe(), err=True)
    if problems:
        raise SystemExit(1)


def _evict_one(client: Client, name: str) -> int:
    """End a function's idle sandboxes, or the sandbox of this id; how many. Raises ProblemError."""
    answer = client.request("DELETE", f"/v1/sandboxes?function={quote(name, safe='')}")
    if answer.status == 200:
        return int(json.loads(answer.read())["ended"])
    of_function = answer.problem()
    answer = client.request("DELETE", f"/v1/sandboxes/{quote(name, safe='')}")
    if answer.status == 204:
        answer.close()
        return 1
    of_sandbox = answer.problem()
    # Neither a function nor a sandbox: the function is what most people mean.
    raise of_function if of_sandbox.status == 404 else of_sandbox
