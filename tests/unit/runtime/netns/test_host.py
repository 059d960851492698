from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from runtime.netns import host
from runtime.netns.host import PUBLIC_RESOLVERS, Host
from runtime.netns.rtnetlink import Link, Taken

LINKS = [Link(1, "lo", 65536), Link(2, "eth0", 1400), Link(3, "pg123456-7", 1500), Link(4, "dummy0", 100)]
TAKEN = [
    Taken(IPv4Network("0.0.0.0/0"), 2),
    Taken(IPv4Network("192.168.1.0/24"), 2),
    Taken(IPv4Network("10.201.0.7/32"), 3),
    Taken(IPv4Network("127.0.0.1/32"), 1),
    Taken(IPv4Network("192.168.1.5/32"), 2),
    Taken(IPv4Network("172.20.0.0/16"), 0),
]


class FakeNetlink:
    def links(self) -> list[Link]:
        return LINKS

    def taken(self) -> list[Taken]:
        return TAKEN

    def close(self) -> None:
        pass


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(host, "Netlink", FakeNetlink)
    return host.survey()


def test_uplinks_are_what_routes_lead_out_by_without_ports(found: Host):
    assert found.uplinks == ("eth0",)
    assert found.mtu == 1400
    assert found.own == {IPv4Address("192.168.1.5")}


@pytest.mark.parametrize(
    ("subnet", "what"),
    [
        ("10.201.0.0/16", ""),  # ports of this or another node
        ("192.168.0.0/16", "192.168.1.0/24 of eth0"),
        ("192.168.1.0/28", "192.168.1.0/24 of eth0"),
        ("172.20.3.0/24", "172.20.0.0/16"),
    ],
)
def test_a_collision_is_named_in_both_directions(found: Host, subnet: str, what: str):
    assert host.collision(found, IPv4Network(subnet)) == what


OWN = frozenset({IPv4Address("192.168.1.5")})


@pytest.mark.parametrize(
    ("texts", "resolvers"),
    [
        ([], PUBLIC_RESOLVERS),
        (["nameserver 127.0.0.53\n"], PUBLIC_RESOLVERS),
        (["nameserver 127.0.0.53\n", "# by systemd\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\n"], ("10.0.0.2",)),
        (["nameserver 192.168.1.5\nnameserver\nnameserver 192.168.1.1\n"], ("192.168.1.1",)),
        (
            ["nameserver 8.8.8.8\nnameserver 8.8.4.4\nnameserver 9.9.9.9\nnameserver 9.9.9.10\n"],
            ("8.8.8.8", "8.8.4.4", "9.9.9.9"),
        ),
        (["search x\noptions rotate\n"], PUBLIC_RESOLVERS),
    ],
)
def test_name_servers_of_the_host_that_a_sandbox_can_reach(texts: list[str], resolvers: tuple[str, ...]):
    assert host.find_resolvers((), OWN, texts) == resolvers


def test_name_servers_that_are_set_come_before_all():
    assert host.find_resolvers(("10.9.9.9",), OWN, ["nameserver 8.8.8.8\n"]) == ("10.9.9.9",)


def test_the_file_for_sandboxes():
    assert host.resolv_conf(["1.1.1.1", "9.9.9.9"]).splitlines()[:2] == ["nameserver 1.1.1.1", "nameserver 9.9.9.9"]


def test_forwarding_of_one_interface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(host, "_forwarding", lambda name: tmp_path / name)
    (tmp_path / "eth0").write_text("0\n")
    assert not host.is_forwarding("eth0")
    host.set_forwarding("eth0", on=True)
    assert host.is_forwarding("eth0")
    host.set_forwarding("eth0", on=False)
    assert not host.is_forwarding("eth0")
