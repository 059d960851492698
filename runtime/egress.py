"""What a function may reach outside its sandbox: the setting `egress`, checked and put in one form. A leaf.

A value is a tuple: empty for nothing, `internet` for all public addresses, and rules. Addresses are IPv4: sandboxes
have no IPv6.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

NONE, INTERNET = "none", "internet"
RULES_MAX = 64
RULE_LENGTH_MAX = 64
_RULE = re.compile(r"([0-9.]+(?:/[0-9]{1,2})?)(?::([0-9]{1,5})(?:-([0-9]{1,5}))?)?(?:/(tcp|udp))?")
_FORM = "CIDR[:PORT[-PORT]][/tcp|/udp], such as 10.1.0.0/16:5432/tcp"

# No rule reaches these: this host, its links, everybody at once. The IPv6 metadata address is out with all IPv6.
NEVER = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")))
# What clouds tell a machine about itself, beside 169.254.0.0/16: Azure, Alibaba, Oracle. Name servers at the most.
METADATA = tuple(map(IPv4Network, ("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")))
# Not public (IANA's special-purpose registry, RFC 6890): reached only by a rule that lies within one of them.
PRIVATE = tuple(
    map(
        IPv4Network,
        (
            *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an allow-list. Ports 0 to 0: all of them; protocol '': TCP and UDP."""

    network: IPv4Network
    first_port: int = 0
    last_port: int = 0
    protocol: str = ""

    @property
    def is_private(self) -> bool:
        """Whether it names private addresses; a wider rule means the public ones among its own."""
        return any(self.network.subnet_of(one) for one in PRIVATE)

    def __str__(self) -> str:
        ports = f":{self.first_port}" if self.first_port else ""
        if self.last_port != self.first_port:
            ports += f"-{self.last_port}"
        return f"{self.network}{ports}{'/' + self.protocol if self.protocol else ''}"


def parse_rule(text: str) -> Rule:
    """Raises ValueError that says what is wrong with it."""
    match = _RULE.fullmatch(text) if len(text) <= RULE_LENGTH_MAX else None
    if match is None:
        hint = "; IPv6 is not available in sandboxes" if text.count(":") > 1 else ""
        raise ValueError(f"{text[:RULE_LENGTH_MAX]!r} is neither {NONE!r}, {INTERNET!r} nor {_FORM}{hint}")
    try:
        network = IPv4Network(match[1])
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error
    first = int(match[2]) if match[2] else 0
    last = int(match[3]) if match[3] else first
    if match[2] and not 1 <= first <= last <= 65535:
        raise ValueError(f"{text!r}: ports are 1 to 65535, the first not above the last")
    for never in (*NEVER, *METADATA):
        if network.subnet_of(never):
            raise ValueError(f"{text!r} lies within {never}, which no sandbox can reach")
    return Rule(network, first, last, match[4] or "")


def check(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The setting in its one form: each rule once, in the given order. Raises ValueError."""
    items = [wanted] if isinstance(wanted, str) else wanted
    if len(items) > RULES_MAX:
        raise ValueError(f"there are {len(items)} rules, the limit is {RULES_MAX}")
    if NONE in items:
        if len(items) > 1:
            raise ValueError(f"{NONE!r} excludes everything else")
        return ()
    return tuple(dict.fromkeys(item if item == INTERNET else str(parse_rule(item)) for item in items))


def shown(egress: Iterable[str]) -> str | list[str]:
    """As users write and see it: `none`, `internet`, or the list."""
    items = list(egress)
    if not items:
        return NONE
    return INTERNET if items == [INTERNET] else items


def parse_subnet(text: str) -> IPv4Network:
    """The setting egress_subnet: addresses for sandboxes. Raises ValueError."""
    network = IPv4Network(text)
    if not 8 <= network.prefixlen <= 28:
        raise ValueError(f"{text} is not between /8 and /28")
    if any(network.overlaps(never) for never in NEVER):
        raise ValueError(f"{text} has addresses that cannot be used")
    return network


def parse_resolvers(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses of name servers that a sandbox can reach. Raises ValueError."""
    found = tuple(dict.fromkeys(str(IPv4Address(text)) for text in texts))
    for one in found:
        if any(IPv4Address(one) in never for never in NEVER):
            raise ValueError(f"{one} is an address that no sandbox can reach")
    return found
