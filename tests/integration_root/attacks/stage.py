"""Where the attacks are carried out: a node with a victim in it, and an attacker started in one of three ways.

helper: forked from a zygote that holds the attacker's package, as a standby. executor: started cold, importing the
package itself. import: code of a package, run by its import in a zygote. After each attack the victim is asked.
"""

import asyncio
import json
import os
import secrets
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from runtime.model import Environment, EnvironmentId, SandboxId
from tests.integration_root.attacks import attacker, counts, files, kernel, neighbours, network, privileges
from tests.integration_root.attacks.attacker import ATTACKS, NOT_RUN, Attack
from tests.node_bed import Bed

TARGETS = {
    "neighbours": neighbours,
    "kernel": kernel,
    "privileges": privileges,
    "network": network,
    "files": files,
    "counts": counts,
}
WAYS = ("helper", "executor", "import")
_FOLDER = Path(attacker.__file__).parent
_MAIN = """
from attacks import attacker, neighbours, kernel, privileges, network, files, counts

def main(param):
    return attacker.run(param["name"], param["target"])
"""
# Import-time code: what it observes stays in the zygote's memory, for a helper to tell.
_IMPORTED = """
import json
from evil import attacker, neighbours, kernel, privileges, network, files, counts

SEEN = {}
for name in json.loads(%r):
    try:
        SEEN[name] = attacker.run(name, json.loads(%r))
    except BaseException as error:
        SEEN[name] = f"failed: {error!r}"
"""


def of(module: ModuleType) -> list[Attack]:
    """The attacks of one file."""
    return [one for one in ATTACKS.values() if one.act.__module__ == module.__name__]


def shipped(folder: str, *names: str) -> dict[str, str]:
    """Files of the attacks as a package of the sandbox."""
    return {f"{folder}/__init__.py": "", **{f"{folder}/{name}.py": text(name) for name in names}}


def text(name: str) -> str:
    """One of the files beside this one."""
    return (_FOLDER / f"{name}.py").read_text()


async def carry_out(bed: Bed) -> dict[str, dict[str, dict[str, Any]]]:
    """All attacks of all files, in all three ways: {way: {name: {"seen", "victim"}}}."""
    stage = _Stage(bed)
    with socket.socket() as port, socket.socket(socket.AF_UNIX) as abstract:
        port.bind(("127.0.0.1", 0))
        abstract.bind(f"\0pagurus-attacked-host-{os.getpid()}")
        for server in (port, abstract):
            server.listen()
            server.setblocking(False)
        await stage.open(port, abstract)
        found = {
            "helper": await stage.as_helper(),
            "executor": await stage.as_executor(),
            "import": await stage.at_import(),
        }
        for server in (port, abstract):
            try:
                server.accept()[0].close()
                found["host"] = {"guest": {"seen": "an attacker reached a socket of the host", "victim": ""}}
            except BlockingIOError:
                continue
    return found


class _Stage:
    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.target: dict[str, Any] = {}
        self.digest = ""
        self.code = bed.write_code({"main.py": _MAIN, **shipped("attacks", "attacker", *TARGETS)})

    async def open(self, port: socket.socket, abstract: socket.socket) -> None:
        """Start the victim from the base zygote, from which executors come too."""
        bed = self.bed
        base = await bed.zygote("base", standbys=2)
        secret = f"secret-block-{secrets.token_hex(16)}"
        self.victim = await bed.parked()
        code = bed.write_code({"main.py": text("victim"), **shipped("attacks", "attacker", "counts")})
        bed.assign(self.victim, bed.assignment(code, environ={"SECRET": secret}))
        first = (await bed.call(self.victim)).value
        self.digest = first["digest"]
        zygote = bed.node._zygotes[base.zygote]
        own = [entry.address for entries in psutil.net_if_addrs().values() for entry in entries if entry.family == 2]
        self.target = {
            "pids": [
                bed.pid(self.victim),
                zygote.pid,
                zygote._namespace.init_pid,
                zygote._namespace.builder_pid,
                os.getpid(),
            ],
            "terces": secret[::-1],
            "abstract": "kept-by-the-victim",
            "port": first["port"],
            "shm_key": first["key"],
            "host_port": port.getsockname()[1],
            "host_abstract": abstract.getsockname()[1:].decode(),
            "host_addresses": [one for one in own if not one.startswith("127.")] or ["192.0.2.9"],
        }

    async def ask_victim(self) -> str:
        """'' when the victim is as it was."""
        try:
            async with asyncio.timeout(5):
                answer = (await self.bed.call(self.victim)).value
            counts.is_left_on_the_host()
        except (EOFError, TimeoutError) as error:
            return f"the victim does not answer: {error!r}"
        except OSError as error:
            return f"the host is short of something: {error}"
        if not isinstance(answer, dict) or "digest" not in answer:
            return f"the victim failed: {answer}"
        if answer["digest"] != self.digest:
            return "what the victim holds has changed"
        return f"{answer['guests']} guests came to the victim" if answer["guests"] else ""

    def package(self, name: str, contents: dict[str, str]) -> Environment:
        return self.bed.write_environment({(name, "1"): contents})

    async def as_helper(self) -> dict[str, dict[str, Any]]:
        package = self.package("dep", {"dep.py": "VALUE = 1\n"})
        await self.bed.zygote("dep", [package])

        async def start() -> SandboxId:
            sandbox = await self.bed.parked(package.id)
            self.bed.assign(sandbox, self.bed.assignment(self.code, environment=package.id))
            return sandbox

        return await self._each(start)

    async def as_executor(self) -> dict[str, dict[str, Any]]:
        package: EnvironmentId = self.package("dep", {"dep.py": "VALUE = 1\n"}).id
        return await self._each(lambda: self.bed.start("base", self.bed.assignment(self.code, environment=package)))

    async def _each(self, start: Any) -> dict[str, dict[str, Any]]:
        sandbox: SandboxId | None = None
        found = {}
        for module in TARGETS.values():
            for one in of(module):
                sandbox = sandbox or await start()
                try:
                    answer = await self.bed.call(sandbox, {"name": one.name, "target": self.target})
                    seen = answer.value if answer.kind == 17 else f"failed: {answer.value}"
                except (EOFError, TimeoutError) as error:
                    seen, sandbox = f"the attacker ended: {error!r}", None
                found[one.name] = {"seen": seen, "victim": await self.ask_victim()}
        if sandbox is not None:
            await self.bed.end(sandbox)
        return found

    async def at_import(self) -> dict[str, dict[str, Any]]:
        names = [one.name for module in TARGETS.values() for one in of(module) if one.at_import != NOT_RUN]
        target = {**self.target, "in_zygote": True}
        source = _IMPORTED % (json.dumps(names), json.dumps(target))
        package = self.package("evil", {**shipped("evil", "attacker", *TARGETS), "evil/__init__.py": source})
        ready = await self.bed.zygote("evil", [package])
        assert not ready.failed, ready.failed
        sandbox = await self.bed.parked(package.id)
        code = self.bed.write_code("import evil\n\ndef main(param):\n    return evil.SEEN\n")
        self.bed.assign(sandbox, self.bed.assignment(code, environment=package.id))
        seen = (await self.bed.call(sandbox)).value
        victim = await self.ask_victim()
        return {name: {"seen": seen.get(name, "(nothing)"), "victim": victim} for name in names}
