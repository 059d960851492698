import re
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from runtime.netns import ruleset
from runtime.netns.ruleset import Table

TABLE = Table("pagurus_n1", "pg123456-", IPv4Network("10.201.0.0/16"), ["10.0.0.53"], ["eth0", "eth1"], 256)


def chain(text: str, name: str) -> list[str]:
    match = re.search(rf"chain {name} {{\n(.*?)\n    }}", text, re.DOTALL)
    assert match, name
    return [line.strip() for line in match[1].splitlines()]


def test_the_table_is_replaced_in_one_transaction_and_no_other_is_named():
    text = ruleset.install(TABLE)
    assert text.index("table inet pagurus_n1\n") < text.index("delete table inet pagurus_n1") < text.index("{")
    assert set(re.findall(r"table inet (\w+)", text)) == {"pagurus_n1"}
    assert "flush" not in text


def test_all_that_is_never_reached_is_refused_before_addresses_are_translated():
    text = ruleset.install(TABLE)
    assert "hook prerouting priority -300" in chain(text, "prerouting")[0]
    assert chain(text, "from_sandbox") == [
        "meta nfproto ipv6 drop",
        "fib saddr . iif oif 0 drop",
        "fib daddr type != unicast goto refuse",
        "ip daddr @never goto refuse",
    ]
    never = next(line for line in text.splitlines() if "set never" in line)
    for network in ("169.254.0.0/16", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "0.0.0.0/8", "10.201.0.0/16"):
        assert network in never


def test_siblings_are_refused_before_anything_is_accepted_and_the_end_is_a_refusal():
    lines = chain(ruleset.install(TABLE), "outgoing")
    assert lines[0] == 'oifname "pg123456-*" drop'
    assert lines[-1] == "goto refuse"
    assert next(at for at, line in enumerate(lines) if "accept" in line) > 0
    assert "add @flows { ip saddr ct count over 256 } goto refuse" in lines


@pytest.mark.parametrize("name", ["input", "to_sandbox", "incoming"])
def test_host_and_sandboxes_do_not_speak(name: str):
    last = chain(ruleset.install(TABLE), name)[-1]
    assert last in ("drop", 'iifname "pg123456-*" drop')


def test_only_sandboxes_are_forwarded_where_the_host_forwards_because_of_us():
    assert chain(ruleset.install(TABLE), "forward")[-1] == "iifname @uplinks drop"
    assert 'elements = { "eth0", "eth1" }' in ruleset.install(TABLE)
    assert "set uplinks { type ifname;  }" in ruleset.install(replace(TABLE, uplinks=[]))


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        ("internet", "ip daddr != @private meta l4proto { tcp, udp } accept"),
        ("10.0.0.0/8", "ip daddr 10.0.0.0/8 meta l4proto { tcp, udp } accept"),
        ("10.0.0.0/8:80/tcp", "ip daddr 10.0.0.0/8 meta l4proto tcp th dport 80 accept"),
        ("10.0.0.0/8:80-90", "ip daddr 10.0.0.0/8 meta l4proto { tcp, udp } th dport 80-90 accept"),
        ("8.8.8.8/32:53/udp", "ip daddr 8.8.8.8/32 ip daddr != @private meta l4proto udp th dport 53 accept"),
        ("0.0.0.0/0:443/tcp", "ip daddr != @private meta l4proto tcp th dport 443 accept"),
        ("8.0.0.0/5/tcp", "ip daddr 8.0.0.0/5 ip daddr != @private meta l4proto tcp accept"),
    ],
)
def test_what_a_policy_accepts(item: str, rule: str):
    text = ruleset.add_policy("pagurus_n1", 0x50670001, (item,))
    assert chain(text, "policy_50670001") == [rule]
    assert f"policies {{ {0x50670001} : jump policy_50670001 }}" in text


def test_a_policy_is_dropped_with_its_element_first():
    lines = ruleset.drop_policy("pagurus_n1", 0x50670001).splitlines()
    assert [line.split()[0] for line in lines] == ["delete", "flush", "delete"]
    assert lines[0].startswith("delete element")
