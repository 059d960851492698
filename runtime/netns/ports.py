"""Ports: the veth pairs that lead out of sandboxes' network namespaces. Runs in pagurusd, between two awaits.

A port is a link between two machines: no bridge, so no neighbour to listen to or to be taken for. It is made when
its function is assigned, straight into the namespace of the sandbox; moving one that was made ahead of time costs a
grace period of RCU, twenty times as long. It goes with the namespace.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from runtime import syscalls
from runtime.netns import rtnetlink
from runtime.netns.rtnetlink import Netlink
from runtime.syscalls import CloneFlag

INSIDE = "eth0"
_TRIES_MAX = 64  # numbers that a namespace which has not gone yet, or another node, may hold
_ACTIVE_TRIES, _ACTIVE_EVERY_S = 50, 0.0002
_EVERYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Port:
    """One sandbox's way out."""

    number: int
    name: str  # of our end
    index: int
    address: IPv4Address


class Ports:
    """Makes ports, each with an address of its own. Closed by `close`; ports go with their namespaces."""

    def __init__(self, prefix: str, subnet: IPv4Network, *, mtu: int, forward: bool) -> None:
        """prefix: of the names of our ends. forward: let each port forward, where the host as a whole does not."""
        self._prefix = prefix
        self._subnet = subnet
        self._mtu = mtu
        self._forward = forward
        self._netlink = Netlink()
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._last = subnet.num_addresses - 2
        self._next = 1
        self._used: set[int] = set()

    def __len__(self) -> int:
        return len(self._used)

    def attach(self, namespace: int, group: int) -> Port:
        """Lead `namespace` out by a new port of this device group. Raises OSError; the namespace is spoilt then."""
        port = self._make(namespace, group)
        try:
            with self.inside(namespace):
                _write(f"/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6", "1")
                index = socket.if_nametoindex(INSIDE)
                within = Netlink()
            try:
                within.ask(
                    rtnetlink.add_address(index, port.address),
                    rtnetlink.link_up(index),
                    rtnetlink.add_route(index, _EVERYWHERE),
                )
            finally:
                within.close()
            self._wait_active(port)
        except BaseException:
            self.cut(port)
            raise
        return port

    def cut(self, port: Port) -> None:
        """Let nothing through any more, at once: the sandbox has ended, but a zygote may still hold its namespace.

        Without its route a port's packets come from nowhere, and none lead to it.
        """
        self._used.discard(port.number)
        with suppress(OSError):  # the port has gone already
            self._netlink.ask(rtnetlink.delete_route(port.index, IPv4Network(port.address)))

    def close(self) -> None:
        self._netlink.close()
        os.close(self._home)

    @contextmanager
    def inside(self, namespace: int) -> Iterator[None]:
        """Be in another network namespace for a moment. The caller has one thread and does not await inside."""
        syscalls.setns(namespace, CloneFlag.NEWNET)
        try:
            yield
        finally:
            syscalls.setns(self._home, CloneFlag.NEWNET)

    def _make(self, namespace: int, group: int) -> Port:
        """The pair, our end up and routed to."""
        for _ in range(_TRIES_MAX):
            number = self._free_number()
            name = f"{self._prefix}{number}"
            hardware = b"\x02\x50" + number.to_bytes(4, "big")
            try:
                self._netlink.ask(
                    rtnetlink.veth(
                        name, peer=INSIDE, namespace=namespace, hardware=hardware, group=group, mtu=self._mtu
                    )
                )
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
                continue  # of a namespace that has not gone yet
            port = Port(number, name, socket.if_nametoindex(name), self._subnet.network_address + number)
            try:
                self._open(port)
            except OSError as error:
                self._netlink.ask(rtnetlink.delete_link(port.index))
                if error.errno != errno.EEXIST:
                    raise
                continue  # the address is another node's
            self._used.add(number)
            return port
        raise OSError(errno.EADDRINUSE, f"no free address in {self._subnet}")

    def _wait_active(self, port: Port) -> None:
        """Answers to the function's first packet would be lost, and that costs TCP a second."""
        for _ in range(_ACTIVE_TRIES):
            if self._netlink.is_active(port.index):
                return
            time.sleep(_ACTIVE_EVERY_S)

    def _open(self, port: Port) -> None:
        _write(f"/proc/sys/net/ipv6/conf/{port.name}/disable_ipv6", "1")
        if self._forward:
            _write(f"/proc/sys/net/ipv4/conf/{port.name}/forwarding", "1")
        # The link first: a route is only taken by one that is up.
        self._netlink.ask(rtnetlink.link_up(port.index), rtnetlink.add_route(port.index, IPv4Network(port.address)))

    def _free_number(self) -> int:
        """The one unused for longest, so that late packets for an address' last owner reach nobody else."""
        for _ in range(self._last):
            number = self._next
            self._next = number % self._last + 1
            if number not in self._used:
                return number
        raise OSError(errno.EADDRINUSE, f"all {self._last} addresses of {self._subnet} are in use")


def probe() -> None:
    """Make a pair into a namespace of its own, which goes at once. Raises OSError when this kernel cannot."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netlink = Netlink()
    scratch = -1
    try:
        syscalls.unshare(CloneFlag.NEWNET)
        try:
            scratch = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            syscalls.setns(home, CloneFlag.NEWNET)
        name = f"pg-probe-{os.getpid() % 100_000}"
        netlink.ask(
            rtnetlink.veth(name, peer=INSIDE, namespace=scratch, hardware=b"\x02\x50\0\0\0\1", group=0, mtu=1500)
        )
    except OSError as error:
        raise OSError(error.errno, f"cannot make a veth pair: {error.strerror}") from error
    finally:
        netlink.close()
        for fd in (home, scratch):
            if fd >= 0:
                os.close(fd)


def _write(path: str, text: str) -> None:
    """One of the kernel's settings; IPv6 has none where the kernel lacks it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
