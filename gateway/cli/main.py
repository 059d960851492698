"""The program `pagurus`: talks HTTP to a gateway, from any user's shell. This module has the root command.

Commands live in modules of their own and are imported when they are called: `pagurus ls` must not pay for what
`pagurus deploy` needs. Exit status: 0 done, 1 a failure of the function or of the request, 2 wrong usage,
3 no gateway answers.
"""

import importlib
from typing import Any

import click

from runtime.errors import PagurusError

DEFAULT_URL = "http://127.0.0.1:8080"
FAILED, UNREACHABLE = 1, 3

# name -> (module, attribute, the line that `pagurus --help` shows)
COMMANDS = {
    "deploy": ("gateway.cli.deploy", "deploy", "Deploy a function from a folder, a file or an archive."),
    "invoke": ("gateway.cli.invoke", "invoke", "Invoke a function and print its result."),
    "ls": ("gateway.cli.listing", "list_functions", "List the functions."),
    "show": ("gateway.cli.show", "show", "Show one function in full, or its lock."),
    "ps": ("gateway.cli.listing", "list_sandboxes", "List the live sandboxes and zygotes."),
    "rm": ("gateway.cli.listing", "remove", "Remove functions."),
    "gc": ("gateway.cli.gc", "collect", "Remove code and packages that no function needs."),
    "rotate-key": ("gateway.cli.rotate_key", "rotate_key", "Encrypt all secrets with a new key."),
    "evict": ("gateway.cli.evict", "evict", "End idle sandboxes."),
    "status": ("gateway.cli.status", "status", "Show the state of the node, or the live view of a function."),
    "runtimes": ("gateway.cli.runtimes", "runtimes", "List the Python versions of the node; add or remove one."),
    "logs": ("gateway.cli.logs", "logs", "Show what an invocation, or the last ones of a function, printed."),
    "bench": ("gateway.cli.bench", "bench", "Measure a running node: replay a trace of calls."),
    "simulate": ("gateway.cli.simulate", "simulate", "Replay a trace on a virtual node, to compare policies."),
    "token": ("gateway.cli.token", "token", "Make, list and remove tokens of this node, as root."),
    "doctor": ("gateway.cli.doctor", "doctor", "Check that this machine has what pagurusd needs."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use, and whose errors of ours end in their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PagurusError as error:
            from gateway.cli.client import ProblemError, UnreachableError

            described = error.describe() if isinstance(error, ProblemError) else _describe(error)
            click.echo(described, err=True)
            ctx.exit(UNREACHABLE if isinstance(error, UnreachableError) else FAILED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


def _describe(error: PagurusError) -> str:
    return f"pagurus: {error.message}" + (f"\n  next step: {error.hint}" if error.hint else "")


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"pagurus {version('pagurus')}")
        except PackageNotFoundError:
            click.echo("pagurus, run from sources that are not installed")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url", envvar="PAGURUS_URL", default=DEFAULT_URL, show_default=True, show_envvar=True, help="Gateway to talk to."
)
@click.option(
    "--token-file",
    envvar="PAGURUS_TOKEN_FILE",
    type=click.Path(),
    show_envvar=True,
    help="File with the token for the gateway.  [default: the variable PAGURUS_TOKEN]",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
@click.pass_context
def cli(ctx: click.Context, url: str, token_file: str | None) -> None:
    """Deploy and invoke Python functions on Pagurus."""
    ctx.obj = url
    ctx.meta["pagurus.token_file"] = token_file  # gateway.cli.client reads it when it is needed


def main() -> None:
    """Entry point of the program."""
    cli.main(prog_name="pagurus")
