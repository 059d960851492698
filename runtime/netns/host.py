"""What the host's network is like where sandboxes are led out through it, and its forwarding. Runs in pagurusd."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from runtime.egress import NEVER
from runtime.netns.rtnetlink import Netlink

OURS = "pg"  # what the names of ports begin with, of any node
PUBLIC_RESOLVERS = ("9.9.9.9", "1.1.1.1")
RESOLVERS_MAX = 3  # MAXNS of resolv.conf(5)
MTU_MIN, MTU_MAX = 576, 1500
_RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True, slots=True)
class Host:
    """Interfaces that routes lead out by, the smallest packet limit among them, and whose addresses are whose."""

    uplinks: tuple[str, ...]
    mtu: int
    taken: tuple[tuple[IPv4Network, str], ...]  # with the interface's name, or ''
    own: frozenset[IPv4Address]


def survey() -> Host:
    """Look at the namespace that the caller is in. Raises OSError."""
    netlink = Netlink()
    try:
        links, taken = netlink.links(), netlink.taken()
    finally:
        netlink.close()
    names = {link.index: link.name for link in links}
    foreign = [
        (one.network, names.get(one.link, ""))
        for one in taken
        if not names.get(one.link, "").startswith(OURS) and not one.network.is_loopback
    ]
    routed = {name for _, name in foreign if name and name != "lo"}
    mtus = [link.mtu for link in links if link.name in routed]
    return Host(
        uplinks=tuple(sorted(routed)),
        mtu=max(MTU_MIN, min([MTU_MAX, *mtus])),
        taken=tuple(foreign),
        own=frozenset(network.network_address for network, _ in foreign if network.prefixlen == 32),
    )


def collision(host: Host, subnet: IPv4Network) -> str:
    """What of the host has addresses of `subnet`, or ''. The default route has all, and is none."""
    for network, name in host.taken:
        if network.prefixlen and network.overlaps(subnet):
            return f"{network} of {name}" if name else str(network)
    return ""


def find_resolvers(wanted: Sequence[str], own: frozenset[IPv4Address], texts: Iterable[str]) -> tuple[str, ...]:
    """Name servers for sandboxes: the wanted ones, else the host's own that a sandbox can reach, else public ones.

    texts: contents of resolv.conf files, of which the first with a usable name server counts. A server on the host
    itself is none: no sandbox reaches the host.
    """
    if wanted:
        return tuple(wanted)[:RESOLVERS_MAX]
    for text in texts:
        found = [one for one in _nameservers(text) if one not in own and not any(one in never for never in NEVER)]
        if found:
            return tuple(str(one) for one in found)[:RESOLVERS_MAX]
    return PUBLIC_RESOLVERS


def resolv_confs() -> list[str]:
    """The host's; systemd-resolved keeps the servers behind its own in a file beside."""
    texts = []
    for path in _RESOLV_CONF:
        with suppress(OSError, UnicodeDecodeError):
            texts.append(path.read_text())
    return texts


def resolv_conf(resolvers: Iterable[str]) -> str:
    """What sandboxes with egress see at /etc/resolv.conf."""
    return "".join(f"nameserver {one}\n" for one in resolvers) + "options timeout:2 attempts:2\n"


def forwards() -> bool:
    """Whether the host as a whole forwards IPv4."""
    return _FORWARD.read_text().strip() == "1"


def is_forwarding(name: str) -> bool:
    """Whether what comes in by this interface may be forwarded."""
    return _forwarding(name).read_text().strip() == "1"


def set_forwarding(name: str, *, on: bool) -> None:
    """Raises OSError, but not for an interface that has gone."""
    with suppress(FileNotFoundError):
        _forwarding(name).write_text("1" if on else "0")


def _forwarding(name: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / name / "forwarding"


def _nameservers(text: str) -> list[IPv4Address]:
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with suppress(ValueError):  # IPv6
                found.append(IPv4Address(words[1]))
    return found
