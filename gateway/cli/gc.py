"""`pagurus gc`: give up what nothing needs. Runs in `pagurus`."""

import json

import click

from gateway.cli import output
from gateway.cli.client import Client


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def collect(url: str, *, dry_run: bool, as_json: bool) -> None:
    """Remove code, environments and package layers that no version of a function needs.

    Layers that nothing needs are a cache for later deploys: by themselves they go only when all layers have more
    than store_bytes, the least recently used first.
    """
    answer = Client(url).request("POST", f"/v1/gc?dry_run={'true' if dry_run else 'false'}")
    if answer.status != 200:
        raise answer.problem()
    found = json.loads(answer.read())
    if as_json:
        output.print_json(found)
        return
    rows = [
        (item["kind"], output.short(item["id"]), item["label"], output.size(item["size_bytes"]), item["used"] or "")
        for item in found["items"]
    ]
    output.print_table(("KIND", "ID", "WHAT", "SIZE", "LAST USED"), rows, empty="nothing to give up")
    if found["count"] > len(rows):
        click.echo(f"and {found['count'] - len(rows)} smaller ones")
    verb = "would free" if dry_run else "freed"
    used = f"layers had {output.size(found['layers_bytes'])} of {output.size(found['store_bytes'])}"
    click.echo(f"{verb} {output.size(found['freed_bytes'])} in {found['count']} items; {used}")
