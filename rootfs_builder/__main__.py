"""Entry of the builder: `base` makes a runtime's rootfs (as root); as nobody, `build` makes code and an
environment's manifest, `layers` makes layers, `proxy` gives a build box the package index.

Writes JSON lines to standard output (events.py). Ends with status 0 after `done`, 1 after `failed`, 143 at SIGTERM.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

from rootfs_builder import children
from rootfs_builder.events import Reporter
from runtime.errors import BuildError


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    children.stop_at_signals()
    os.umask(0o022)
    options = _parser().parse_args(arguments)
    reporter = Reporter()
    try:
        commands = {"base": _base, "build": _build, "layers": _layers, "proxy": _proxy}
        commands[options.command](options, reporter)
    except BuildError as error:
        reporter.failed(error)
        return 1
    except BrokenPipeError:
        return 1  # nobody listens any more; the children are gone
    except OSError as error:
        from rootfs_builder import trees

        reporter.failed(trees.writing_failed(error, "finish the build"))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rootfs_builder", description="Builds rootfs, code and environments.")
    commands = parser.add_subparsers(dest="command", required=True)
    base = commands.add_parser("base", help="make the base rootfs of a runtime (as root)")
    base.add_argument("--runtime", required=True, help="for example python3.11")
    base.add_argument("--output", required=True, type=Path, help="directory of all base rootfs")
    base.add_argument("--toolchain", action="store_true", help="with compilers, for build boxes")
    base.add_argument("--force", action="store_true", help="build also when there is one")
    commands.add_parser("build", help="build what the request on standard input, a socket, says")
    commands.add_parser("layers", help="make the layers that the request on standard input, a socket, names")
    commands.add_parser("proxy", help="serve the package index on the inherited socket 3 until standard input ends")
    return parser


def _base(options: argparse.Namespace, reporter: Reporter) -> None:
    from rootfs_builder import base

    variant = base.TOOLCHAIN if options.toolchain else ""
    base.run(options.runtime, options.output, reporter, force=options.force, variant=variant)


def _build(_: argparse.Namespace, reporter: Reporter) -> None:
    from rootfs_builder import build, channel

    with socket.socket(fileno=os.dup(0)) as source:
        request = channel.decode(channel.read_request(source), build.Request)
        build.run(request, reporter, channel.Channel(source, reporter))


def _layers(_: argparse.Namespace, reporter: Reporter) -> None:
    from rootfs_builder import channel, layering

    pool = layering.executor()
    with pool, socket.socket(fileno=os.dup(0)) as source:
        line = channel.read_request(source)
        if line:  # else there was nothing to make
            request = channel.decode(line, layering.Request)
            layering.run(request, pool, reporter, channel.Channel(source, reporter))


def _proxy(_: argparse.Namespace, reporter: Reporter) -> None:
    from rootfs_builder import index_proxy

    index_proxy.run(reporter)


if __name__ == "__main__":
    sys.exit(main())
