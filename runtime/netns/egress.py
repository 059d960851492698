"""The node's egress: rules, forwarding and ports, made when the first function wants them. Runs in pagurusd.

A node none of whose functions has egress changes nothing of the host's network. What was changed goes at a clean
stop. After kill -9 the rules stay, and refuse as before; the next start makes them anew, `scripts/uninstall` ends them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network

from runtime.config import Settings
from runtime.errors import StartError
from runtime.netns import host, nft, ports, ruleset
from runtime.netns.host import Host
from runtime.netns.ports import Port, Ports
from runtime.netns.ruleset import Table

log = logging.getLogger("pagurus.egress")

FIRST_GROUP = 0x50670000  # device groups of policies; those that an administrator numbers begin at 0
POLICIES_MAX = 256  # kept loaded; beyond that the ones without a port go
Run = Callable[[str], Awaitable[None]]


class Egress:
    """See the module. `check` at the start, `prepare` before an `attach` that is not `is_ready`, `close` at the end."""

    def __init__(self, settings: Settings, node: str, run: Run) -> None:
        """run: feeds a script to nft and lets the event loop go on; raises OSError."""
        self._settings = settings
        self._run = run
        self._table = table_name(node)
        self._prefix = f"{host.OURS}{node[1:7]}-"
        self._loading = asyncio.Lock()
        self._ports: Ports | None = None
        self._uplinks: list[str] = []
        self._policies: dict[tuple[str, ...], int] = {}
        self._users: Counter[tuple[str, ...]] = Counter()
        self._failure = ""
        self._last_group = FIRST_GROUP
        self._made = self._failed = 0
        self.resolvers: tuple[str, ...] = ()  # of sandboxes with egress, once one was prepared
        self.refusal = ""  # why no function can have egress here

    @property
    def counters(self) -> dict[str, int]:
        """For the node's status: totals since the start, and what there is now."""
        return {
            "egress_ports_made": self._made,
            "egress_ports_failed": self._failed,
            "egress_ports_now": len(self._ports) if self._ports is not None else 0,
            "egress_policies_now": len(self._policies),
        }

    def check(self) -> str:
        """Find out whether functions can have egress; why not, or ''. Renews the rules of a run that was killed.

        Blocks for some 20 ms: for the start of pagurusd, after the sandboxes of an earlier run have ended.
        """
        try:
            found = self._survey()
            left = nft.uplinks(self._table)
            table = self._plan(found, left)
            nft.run(ruleset.install(table), "-c")
            ports.probe()
            if left is not None:
                nft.run(ruleset.install(table))
                self._opened(table, found)
                log.info("renewed the rules of table inet %s", self._table)
        except OSError as error:
            self.refusal = error.strerror or str(error)
        return self.refusal

    def is_ready(self, wanted: tuple[str, ...]) -> bool:
        """Whether a sandbox can be attached with this egress at once."""
        return not wanted or wanted in self._policies

    async def prepare(self, wanted: tuple[str, ...]) -> None:
        """Make rules, forwarding and the policy, where they are not there. What goes wrong is for `attach` to tell."""
        async with self._loading:
            if self.is_ready(wanted) or self.refusal:
                return
            try:
                if self._ports is None:
                    found = self._survey()
                    table = self._plan(found, nft.uplinks(self._table))
                    await self._run(ruleset.install(table))
                    self._opened(table, found)
                await self._load(wanted)
            except OSError as error:
                self._failure = error.strerror or str(error)
                log.warning("cannot prepare egress: %s", self._failure)

    def attach(self, namespace: int, wanted: tuple[str, ...]) -> Port:
        """Lead a network namespace out as `wanted` says; `cut` ends that. Raises StartError."""
        group = self._policies.get(wanted)
        if self.refusal or self._ports is None or group is None:
            raise StartError("network", f"there is no egress: {self.refusal or self._failure or 'no rules are loaded'}")
        try:
            port = self._ports.attach(namespace, group)
        except OSError as error:
            self._failed += 1
            raise StartError("network", f"cannot make a port: {error.strerror or error}") from error
        self._made += 1
        self._users[wanted] += 1
        return port

    def cut(self, port: Port, wanted: tuple[str, ...]) -> None:
        """A sandbox has ended: nothing goes through its port any more. Once a port."""
        self._users[wanted] -= 1
        if self._ports is not None:
            self._ports.cut(port)

    def close(self) -> None:
        """Give up everything, and take rules and forwarding from the host. Blocks.

        Not while a sandbox has a port, as when pagurusd could not end it: the rules hold it then, until the next start.
        """
        if self._ports is None:
            return
        left = len(self._ports)
        self._ports.close()
        self._ports = None
        self._policies.clear()
        if left:
            log.error("table inet %s stays: %d sandboxes still have a port", self._table, left)
            return
        try:
            take_away(self._table, self._uplinks)
        except OSError as error:
            log.error("cannot remove table inet %s: %s", self._table, error)

    def _survey(self) -> Host:
        """Raises OSError that names the setting which collides with something of the host."""
        if not self._settings.egress_subnet:
            raise OSError("the setting egress_subnet is empty")
        found = host.survey()
        taken = host.collision(found, IPv4Network(self._settings.egress_subnet))
        if taken:
            subnet = self._settings.egress_subnet
            raise OSError(f"egress_subnet {subnet} collides with the host's {taken}: set it to a range that is free")
        return found

    def _plan(self, found: Host, left: list[str] | None) -> Table:
        """left: the uplinks of a table that is there; they forward because of us, whatever they say now."""
        uplinks: set[str] = set()
        if not host.forwards():
            uplinks = {*(left or ()), *(name for name in found.uplinks if not host.is_forwarding(name))}
        return Table(
            name=self._table,
            prefix=self._prefix,
            subnet=IPv4Network(self._settings.egress_subnet),
            resolvers=host.find_resolvers(self._settings.egress_resolvers, found.own, host.resolv_confs()),
            uplinks=sorted(uplinks),
            flows_max=self._settings.egress_connections_max,
        )

    def _opened(self, table: Table, found: Host) -> None:
        """The rules are in force: only now anything is forwarded. Raises OSError."""
        for name in table.uplinks:
            host.set_forwarding(name, on=True)
        self._uplinks = list(table.uplinks)
        self.resolvers = tuple(table.resolvers)
        self._ports = Ports(self._prefix, table.subnet, mtu=found.mtu, forward=not host.forwards())

    async def _load(self, wanted: tuple[str, ...]) -> None:
        unused = [one for one in self._policies if self._users[one] <= 0]
        surplus = unused[: max(0, len(self._policies) + 1 - POLICIES_MAX)]
        script = "".join(ruleset.drop_policy(self._table, self._policies.pop(one)) for one in surplus)
        for one in surplus:
            del self._users[one]
        self._last_group += 1
        group = self._last_group
        await self._run(script + ruleset.add_policy(self._table, group, wanted))
        self._policies[wanted] = group


def table_name(node: str) -> str:
    """Of the one table that a node has."""
    return f"pagurus_{node}"


def take_away(table: str, uplinks: list[str]) -> None:
    """Remove a node's rules, and what forwards because of them only. Blocks. Raises OSError."""
    if not host.forwards():  # else somebody else wants it by now
        for name in uplinks:
            host.set_forwarding(name, on=False)
    nft.run(ruleset.remove(table))
