"""Messages of rtnetlink(7), packed by hand: links, addresses and routes. Runs in pagurusd.

By hand, since they are on the path of a start: pyroute2 needs 13 ms for what takes one here, and its import 200 ms
and 15 MB of a process that forks (docs/decisions/network.md). Tests read what was made with pyroute2.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

_ERROR, _DONE = 2, 3  # linux/netlink.h
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 17, 18, 20, 22  # linux/rtnetlink.h
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_MAIN, _STATIC, _SCOPE_LINK, _SCOPE_NOWHERE, _UNICAST = 254, 4, 253, 255, 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 1, 3, 4, 18  # linux/if_link.h
_IFLA_OPERSTATE, _OPERSTATE_UP = 16, b"\6"  # linux/if.h: IF_OPER_UP
_IFLA_GROUP, _IFLA_NET_NS_FD, _INFO_KIND, _INFO_DATA, _VETH_PEER = 27, 28, 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2  # linux/if_addr.h
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 9, 15
_UP, _NOARP, _ALL = 0x1, 0x80, 0xFFFFFFFF  # linux/if.h
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Addresses that are somebody's already: of a route or of an interface."""

    network: IPv4Network
    link: int  # 0: a route to nowhere, or over several


class Netlink:
    """One rtnetlink socket, of the network namespace that the caller is in when it is made. Closed by `close`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def ask(self, *messages: bytes) -> None:
        """Send requests as one batch; the kernel has done them when this returns. Raises OSError of the first bad one.

        Those behind a bad one are done all the same.
        """
        self._socket.send(b"".join(messages))
        failed, waiting = 0, len(messages)
        while waiting:
            for kind, body in _split(self._socket.recv(65536)):
                if kind == _ERROR:
                    failed = failed or -struct.unpack_from("=i", body)[0]
                    waiting -= 1
        if failed:
            raise OSError(failed, os.strerror(failed))

    def is_active(self, index: int) -> bool:
        """Whether a link that is up sends by now: one whose other end came up later is told so by a kernel thread.

        From Linux 6.8 on the question itself makes it so.
        """
        self._socket.send(_message(_GETLINK, _REQUEST, _LINK.pack(0, 0, index, 0, 0)))
        ((kind, body),) = _split(self._socket.recv(1 << 18))
        if kind == _ERROR:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number, os.strerror(number))
        return _attributes(body[_LINK.size :]).get(_IFLA_OPERSTATE) == _OPERSTATE_UP

    def links(self) -> list[Link]:
        """All interfaces."""
        found = []
        for body in self._dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0)):
            attributes = _attributes(body[_LINK.size :])
            name = attributes[_IFLA_IFNAME].rstrip(b"\0").decode()
            found.append(Link(_LINK.unpack_from(body)[2], name, struct.unpack("=I", attributes[_IFLA_MTU])[0]))
        return found

    def taken(self) -> list[Taken]:
        """Networks of the main table's routes and addresses of interfaces."""
        found = []
        for body in self._dump(_GETROUTE, _ROUTE.pack(socket.AF_INET, *(0,) * 8)):
            family, length, *_, table, _, _, _, _ = _ROUTE.unpack_from(body)
            attributes = _attributes(body[_ROUTE.size :])
            if family == socket.AF_INET and _number(attributes, _RTA_TABLE, table) == _MAIN:
                network = IPv4Network((attributes.get(_RTA_DST, b"\0\0\0\0"), length))
                found.append(Taken(network, _number(attributes, _RTA_OIF, 0)))
        for body in self._dump(_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            address = _attributes(body[_ADDRESS.size :]).get(_IFA_LOCAL)
            if address is not None:
                found.append(Taken(IPv4Network(address), _ADDRESS.unpack_from(body)[4]))
        return found

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._socket.send(_message(kind, _REQUEST | _DUMP, body))
        while True:
            for answer, content in _split(self._socket.recv(1 << 18)):
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise OSError(number, os.strerror(number))
                yield content


def veth(name: str, *, peer: str, namespace: int, hardware: bytes, group: int, mtu: int) -> bytes:
    """A veth pair, down: `name` here in device group `group`, `peer` with index 2 in another namespace.

    Both ends have one hardware address and resolve none (NOARP): what one sends is always for the other.
    """
    common = _attribute(_IFLA_ADDRESS, hardware) + _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    inside = _LINK.pack(0, 0, 2, _NOARP, _ALL) + _attribute(_IFLA_IFNAME, peer.encode() + b"\0") + common
    inside += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace))
    pair = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, inside))
    body = _LINK.pack(0, 0, 0, _NOARP, _ALL) + _attribute(_IFLA_IFNAME, name.encode() + b"\0") + common
    body += _attribute(_IFLA_GROUP, struct.pack("=I", group)) + _attribute(_IFLA_LINKINFO, pair)
    return _message(_NEWLINK, _REQUEST | _ACK | _CREATE | _EXCL, body)


def link_up(index: int) -> bytes:
    return _message(_NEWLINK, _REQUEST | _ACK, _LINK.pack(0, 0, index, _UP, _UP))


def delete_link(index: int) -> bytes:
    return _message(_DELLINK, _REQUEST | _ACK, _LINK.pack(0, 0, index, 0, 0))


def add_address(index: int, address: IPv4Address) -> bytes:
    """`address`/32."""
    body = _ADDRESS.pack(socket.AF_INET, 32, 0, 0, index)
    body += _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
    return _message(_NEWADDR, _REQUEST | _ACK | _CREATE | _EXCL, body)


def add_route(index: int, network: IPv4Network) -> bytes:
    """What is for `network` goes out by this link, with no router between. EEXIST when there is such a route."""
    body = _route(network, _SCOPE_LINK) + _attribute(_RTA_OIF, struct.pack("=i", index))
    return _message(_NEWROUTE, _REQUEST | _ACK | _CREATE | _EXCL, body)


def delete_route(index: int, network: IPv4Network) -> bytes:
    body = _route(network, _SCOPE_NOWHERE) + _attribute(_RTA_OIF, struct.pack("=i", index))
    return _message(_DELROUTE, _REQUEST | _ACK, body)


def _route(network: IPv4Network, scope: int) -> bytes:
    head = _ROUTE.pack(socket.AF_INET, network.prefixlen, 0, 0, _MAIN, _STATIC, scope, _UNICAST, 0)
    return head + (_attribute(_RTA_DST, network.network_address.packed) if network.prefixlen else b"")


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _number(attributes: dict[int, bytes], kind: int, otherwise: int) -> int:
    value = attributes.get(kind)
    return otherwise if value is None else int(struct.unpack("=I", value)[0])
