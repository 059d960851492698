"""An outside world for a node's network: namespaces of the test's own, joined by veth. Nothing of the host is touched.

`small_world` moves the caller into a namespace that plays the host; each `Outside` is one more, with a process in it
that answers on all its addresses: TCP and UDP with the peer's address, DNS with WEB for every name.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from runtime import syscalls
from runtime.syscalls import CloneFlag

HOST, ROUTER = "5.5.5.2", "5.5.5.1"
WEB, WEB_B = "93.184.216.34", "93.184.216.35"
RESOLVER, PRIVATE, CGNAT = "10.99.0.53", "10.66.0.1", "100.64.7.7"
METADATA, DOCUMENTATION = "169.254.169.254", "203.0.113.9"
WIRE_SERVER, ALIBABA = "168.63.129.16", "100.100.100.200"
ADDRESSES = (WIRE_SERVER, ALIBABA, WEB, WEB_B, RESOLVER, PRIVATE, CGNAT, METADATA, DOCUMENTATION)
PORTS = (25, 53, 80, 443, 8080, 8081, 8082)
UPLINK = "up0"


def ip(command: str) -> None:
    """One command of iproute2."""
    subprocess.run(["ip", *command.split()], check=True)


def small_world(*, forwards: bool = False) -> None:
    """The caller's process is on a host of its own from here on: only `lo`, and no rules."""
    syscalls.unshare(CloneFlag.NEWNET)
    ip("link set lo up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1" if forwards else "0")


class Outside:
    """The network behind one uplink of the host."""

    def __init__(self, uplink: str, *, host: str, router: str, addresses: tuple[str, ...]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)
                self._ours.close()
                syscalls.unshare(CloneFlag.NEWNET)
                theirs.send(b"made")
                theirs.recv(10)
                _serve(theirs)
            finally:
                os._exit(1)
        theirs.close()
        assert self._ours.recv(10) == b"made"
        ip(f"link add {uplink} type veth peer name out0 netns {self.pid}")
        ip(f"addr add {host}/24 dev {uplink}")
        ip(f"link set {uplink} up")
        self.run("ip link set lo up")
        self.run(f"ip addr add {router}/24 dev out0")
        self.run("ip link set out0 up")
        for address in addresses:
            self.run(f"ip addr add {address}/32 dev lo")
        self._ours.send(b"serve")
        assert self._ours.recv(10) == b"ready"

    def run(self, command: str) -> None:
        """A command in this network's namespace."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *command.split()], check=True)

    def send(self, text: str, address: str, port: int) -> None:
        """Send a datagram from there."""
        self._ask({"send": text, "to": [address, port]})

    def received(self) -> list[str]:
        """What datagrams have come so far."""
        found = self._ask({})
        assert isinstance(found, list)
        return found

    def close(self) -> None:
        self._ours.close()
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _ask(self, question: object) -> object:
        self._ours.send(json.dumps(question).encode())
        return json.loads(self._ours.recv(1 << 16))


@contextlib.contextmanager
def internet() -> Iterator[Outside]:
    """The usual outside, with the host's default route to it. Call `small_world` before."""
    outside = Outside(UPLINK, host=HOST, router=ROUTER, addresses=ADDRESSES)
    try:
        ip(f"route add default via {ROUTER}")
        yield outside
    finally:
        outside.close()


def _serve(control: socket.socket) -> None:
    """Body of the process in the other namespace."""
    tcp = [socket.create_server(("0.0.0.0", port), backlog=512) for port in PORTS]
    udp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in PORTS]
    for end, port in zip(udp, PORTS, strict=True):
        end.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: the answer must come from where the question went
        end.bind(("0.0.0.0", port))
    kept: list[socket.socket] = []
    received: list[str] = []
    control.send(b"ready")
    while True:
        for end in select.select([control, *tcp, *udp], [], [])[0]:
            if end is control:
                question = json.loads(end.recv(1 << 16))
                if "send" in question:
                    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        sender.sendto(question["send"].encode(), tuple(question["to"]))
                end.send(json.dumps(received).encode())
            elif end in tcp:
                connection, peer = end.accept()
                connection.send(peer[0].encode())
                connection.shutdown(socket.SHUT_WR)
                kept.append(connection)
            else:
                data, ancillary, _, peer = end.recvmsg(2048, 256)
                if end.getsockname()[1] == 53:
                    answer = _resolve(data)
                else:
                    received.append(data.decode(errors="replace"))
                    answer = peer[0].encode()
                with contextlib.suppress(OSError):  # no way back
                    end.sendmsg([answer], [(level, kind, _source(info)) for level, kind, info in ancillary], 0, peer)


def _source(info: bytes) -> bytes:
    """struct in_pktinfo with the question's destination as the answer's source."""
    return struct.pack("=i4s4s", 0, info[4:8], b"\0" * 4)


def _resolve(question: bytes) -> bytes:
    """An A record of WEB for an A question, and no record for any other (RFC 1035)."""
    end = question.index(b"\0", 12) + 5
    is_a = question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if is_a else 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(WEB)
    return head + question[12:end] + (record if is_a else b"")
