"""`pagurus doctor`: the checks of runtime.doctor on this machine, as a table. Runs in `pagurus`."""

import os
from pathlib import Path

import click

from gateway.cli import output


@click.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings of pagurusd.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, config: Path | None, as_json: bool) -> None:
    """Check that this machine has what pagurusd needs. Status 1 when a required check fails."""
    from runtime.config import load
    from runtime.doctor import run_checks

    checks = run_checks(load(config, os.environ))
    missing = [check for check in checks if check.required and not check.ok]
    if as_json:
        import msgspec

        output.print_json({"ok": not missing, "checks": msgspec.to_builtins(checks)})
    else:
        rows = [
            [check.name, "ok" if check.ok else "MISSING" if check.required else "missing", check.found]
            for check in checks
        ]
        output.print_table(("check", "state", "found"), rows, empty="no checks")
        for check in checks:
            if not check.ok:
                _explain(check.name, check.lost, check.fix)
        click.echo()
        click.echo(_verdict(len(checks), len(missing), sum(not check.ok for check in checks)))
    if missing:
        raise SystemExit(1)


def _explain(name: str, lost: str, fix: str) -> None:
    click.echo()
    click.echo(click.style(name, bold=True))
    if lost:
        click.echo(f"  lost: {output.plain(lost)}")
    if fix:
        click.echo(f"  fix:  {output.plain(fix)}")


def _verdict(total: int, missing: int, failed: int) -> str:
    if missing:
        return f"{missing} of {total} checks must be mended before pagurusd can run"
    optional = failed - missing
    return f"pagurusd can run here; {total - failed} of {total} checks passed" + (
        f"; {optional} optional: see above" if optional else ""
    )
