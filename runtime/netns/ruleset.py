"""The rules of nftables for sandboxes with egress, as text for `nft -f -`. Pure; used by pagurusd.

One table of ours. A sandbox's port is known by the beginning of its name and its policy by its device group, which
the kernel sets with the link itself: a start or an end touches no rule. Where a packet may come from is what the
routes say (`fib`): each port has the route of its one address. What is refused is refused in prerouting, before any
translation of addresses by others can turn it into something else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from runtime.egress import INTERNET, METADATA, NEVER, PRIVATE, Rule, parse_rule


@dataclass(frozen=True, slots=True)
class Table:
    """What the rules are made from. uplinks: interfaces that forward because of us only."""

    name: str
    prefix: str  # of the ports' names
    subnet: IPv4Network
    resolvers: Sequence[str]
    uplinks: Sequence[str]
    flows_max: int  # connections of one sandbox at once


def install(table: Table) -> str:
    """Make the table, in place of one that is there: in one transaction, so that no packet sees neither."""
    port = f'"{table.prefix}*"'
    return f"""
table inet {table.name}
delete table inet {table.name}
table inet {table.name} {{
    map policies {{ type devgroup : verdict; }}
    set uplinks {{ type ifname; {_elements(f'"{name}"' for name in table.uplinks)} }}
    set resolvers {{ type ipv4_addr; {_elements(table.resolvers)} }}
    set never {{ type ipv4_addr; flags interval; {_elements(map(str, [*NEVER, table.subnet]))} }}
    set metadata {{ type ipv4_addr; flags interval; {_elements(map(str, METADATA))} }}
    set private {{ type ipv4_addr; flags interval; {_elements(map(str, PRIVATE))} }}
    set flows {{ type ipv4_addr; size 65535; flags dynamic; }}
    chain refuse {{
        meta l4proto tcp reject with tcp reset
        drop
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname {port} jump from_sandbox
    }}
    chain from_sandbox {{
        meta nfproto ipv6 drop
        fib saddr . iif oif 0 drop
        fib daddr type != unicast goto refuse
        ip daddr @never goto refuse
    }}
    chain input {{
        type filter hook input priority -10; policy accept;
        iifname {port} drop
    }}
    chain output {{
        type filter hook output priority -10; policy accept;
        oifname {port} goto to_sandbox
    }}
    chain to_sandbox {{
        tcp flags & rst == rst accept
        icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
        drop
    }}
    chain forward {{
        type filter hook forward priority -10; policy accept;
        iifname {port} goto outgoing
        oifname {port} goto incoming
        iifname @uplinks drop
    }}
    chain outgoing {{
        oifname {port} drop
        ct state established accept
        ct state related meta l4proto icmp accept
        ct state invalid drop
        add @flows {{ ip saddr ct count over {table.flows_max} }} goto refuse
        ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
        ip daddr @metadata goto refuse
        meta iifgroup vmap @policies
        goto refuse
    }}
    chain incoming {{
        ct state established,related accept
        drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        ip saddr {table.subnet} oifname != {port} masquerade
    }}
}}
"""


def add_policy(table: str, group: int, egress: Iterable[str]) -> str:
    """Let ports of device group `group` reach what `egress` says."""
    lines = "\n".join(f"        {line}" for line in dict.fromkeys(map(_accept, egress)))
    chain = f"policy_{group:x}"
    return f"""
table inet {table} {{
    chain {chain} {{
{lines}
    }}
}}
add element inet {table} policies {{ {group} : jump {chain} }}
"""


def drop_policy(table: str, group: int) -> str:
    """Undo `add_policy`; no port of the group may be left."""
    chain = f"policy_{group:x}"
    element = f"delete element inet {table} policies {{ {group} : jump {chain} }}"
    return f"{element}\nflush chain inet {table} {chain}\ndelete chain inet {table} {chain}\n"


def remove(table: str) -> str:
    """Take the table away, if it is there."""
    return f"table inet {table}\ndelete table inet {table}\n"


def _accept(item: str) -> str:
    if item == INTERNET:
        return "ip daddr != @private meta l4proto { tcp, udp } accept"
    rule: Rule = parse_rule(item)
    match = f"ip daddr {rule.network}" if rule.network.prefixlen else ""
    if not rule.is_private:
        match += " ip daddr != @private"
    if not rule.first_port:
        match += f" meta l4proto {rule.protocol or '{ tcp, udp }'}"
    else:
        ports = f"{rule.first_port}-{rule.last_port}" if rule.last_port != rule.first_port else str(rule.first_port)
        protocol = f"meta l4proto {rule.protocol or '{ tcp, udp }'}"
        match += f" {protocol} th dport {ports}"
    return f"{match.strip()} accept"


def _elements(values: Iterable[str]) -> str:
    found = ", ".join(values)
    return f"elements = {{ {found} }};" if found else ""
