"""The program `nft`: scripts in, as one transaction each. Runs in pagurusd.

A child of its own for each script: nft's library keeps state, and the root process does not load it.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_OUTPUT_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Child:
    """An nft that runs; whoever reaps it calls `finish` once."""

    pid: int
    output: int

    def finish(self, exit_status: int | None) -> str:
        """What it wrote. Raises OSError with nft's own first words when it failed."""
        with os.fdopen(self.output, "rb") as file:
            file.seek(0)
            text = file.read(_OUTPUT_MAX).decode(errors="replace")
        if exit_status != 0:
            first = next((line for line in text.splitlines() if line.strip()), f"exit status {exit_status}")
            raise OSError(f"nft failed: {first}")
        return text


def start(script: str, options: Sequence[str] = ()) -> Child:
    """Feed a script to a new nft. The caller reaps it. Raises OSError when there is no nft."""
    program = shutil.which("nft", path=_ENVIRON["PATH"])
    if program is None:
        raise FileNotFoundError("there is no program nft: install the package nftables")
    source, output = os.memfd_create("nft script"), os.memfd_create("nft output")
    try:
        os.write(source, script.encode())
        os.lseek(source, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), *((os.POSIX_SPAWN_DUP2, output, fd) for fd in (1, 2))]
        arguments = ["nft", *options, "-f", "-"]
        pid = os.posix_spawn(program, arguments, _ENVIRON, file_actions=actions, setsigmask=())
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(source)
    return Child(pid, output)


def run(script: str, *options: str) -> str:
    """Run a script and wait for it; what it printed. Blocks, 3 to 20 ms. Raises OSError."""
    child = start(script, options)
    _, status = os.waitpid(child.pid, 0)
    return child.finish(os.waitstatus_to_exitcode(status))


def uplinks(table: str) -> list[str] | None:
    """The elements of the set `uplinks` of a table of ours, or None when there is no such table. Raises OSError."""
    for one in _listed(run("list tables inet", "-j"), "table"):
        if one.get("name") == table:
            (found,) = _listed(run(f"list set inet {table} uplinks", "-j"), "set")
            return [str(name) for name in found.get("elem", [])]
    return None


def _listed(text: str, kind: str) -> list[dict[str, Any]]:
    return [one[kind] for one in json.loads(text)["nftables"] if kind in one]
