import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from runtime.netns import rtnetlink
from runtime.netns.rtnetlink import Netlink


def decoded(kind: type, data: bytes) -> object:
    message = kind(data)
    message.decode()
    return message


def test_a_pair_is_as_pyroute2_reads_it():
    data = rtnetlink.veth("pg1-7", peer="eth0", namespace=9, hardware=b"\2\x50\0\0\0\7", group=0x50670001, mtu=1400)
    message = decoded(ifinfmsg, data)
    assert message.get_attr("IFLA_IFNAME") == "pg1-7"
    assert message.get_attr("IFLA_ADDRESS") == "02:50:00:00:00:07"
    assert message.get_attr("IFLA_GROUP") == 0x50670001
    assert (message["flags"], message.get_attr("IFLA_MTU")) == (0x80, 1400)
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_ADDRESS") == "02:50:00:00:00:07"
    assert (peer["flags"], peer.get_attr("IFLA_NET_NS_FD")) == (0x80, 9)


def test_addresses_and_routes_are_as_pyroute2_reads_them():
    address = decoded(ifaddrmsg, rtnetlink.add_address(5, IPv4Address("10.201.0.7")))
    assert (address["index"], address["prefixlen"], address.get_attr("IFA_LOCAL")) == (5, 32, "10.201.0.7")
    route = decoded(rtmsg, rtnetlink.add_route(5, IPv4Network("10.201.0.7/32")))
    assert (route["dst_len"], route["scope"], route.get_attr("RTA_DST")) == (32, 253, "10.201.0.7")
    assert (route["table"], route.get_attr("RTA_OIF")) == (254, 5)
    everywhere = decoded(rtmsg, rtnetlink.add_route(5, IPv4Network("0.0.0.0/0")))
    assert (everywhere["dst_len"], everywhere.get_attr("RTA_DST")) == (0, None)


class FakeSocket:
    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def recv(self, _: int) -> bytes:
        return self.answers.pop(0)


def netlink(*answers: bytes) -> Netlink:
    made = Netlink.__new__(Netlink)
    made._socket = FakeSocket(*answers)  # type: ignore[assignment]
    return made


def acknowledged(error: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -error) + bytes(16)


def test_all_answers_of_a_batch_are_taken_and_the_first_failure_told():
    asking = netlink(acknowledged(0) + acknowledged(17), acknowledged(22))
    with pytest.raises(OSError, match="File exists"):
        asking.ask(b"1", b"2", b"3")
    assert asking._socket.answers == []  # type: ignore[attr-defined]


def test_a_batch_that_goes_well():
    asking = netlink(acknowledged(0), acknowledged(0))
    asking.ask(b"1", b"2")
    assert asking._socket.sent == [b"12"]  # type: ignore[attr-defined]


def test_the_host_can_be_looked_at_without_privilege():
    looking = Netlink()
    assert "lo" in [link.name for link in looking.links()]
    looking.taken()
    looking.close()
