"""Attacks over and on the network: the host, the gateway, metadata services, raw packets. Runs inside a sandbox."""

import fcntl
import os
import socket
import struct

from .attacker import NOT_RUN, Target, attack, each, held

AF_PACKET, AF_ALG, AF_VSOCK, AF_BLUETOOTH, AF_KEY, AF_CAN = 17, 38, 40, 31, 15, 29


def _connect(host: str, port: int, family: int = socket.AF_INET) -> None:
    with socket.socket(family) as client:
        client.settimeout(1)
        client.connect((host, port))


@attack(gain="to see or forge packets", seen="EPERM")
def open_raw_sockets(target: Target):
    return each(
        icmp=lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        ip=lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        ip6=lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
    )


@attack(gain="to see every frame of an interface", seen="EPERM")
def open_packet_sockets(target: Target):
    return each(
        raw=lambda: socket.socket(AF_PACKET, socket.SOCK_RAW, 0x0300),
        datagram=lambda: socket.socket(AF_PACKET, socket.SOCK_DGRAM, 0x0300),
    )


# A zygote's loopback is down.
@attack(gain="the host's services on its loopback", seen="ECONNREFUSED", at_import="ENETUNREACH")
def connect_to_the_hosts_loopback(target: Target):
    return _connect("127.0.0.1", target["host_port"])


@attack(gain="the host's services on its addresses", seen="ENETUNREACH")
def connect_to_the_hosts_addresses(target: Target):
    return each(**{address: lambda address=address: _connect(address, 22) for address in target["host_addresses"]})


@attack(gain="credentials of the machine from its metadata service", seen="ENETUNREACH")
def connect_to_metadata_addresses(target: Target):
    addresses = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
    return each(**{address: lambda address=address: _connect(address, 80) for address in addresses})


@attack(gain="the same over IPv6", seen="unreachable")
def connect_over_ipv6(target: Target):
    seen = each(
        metadata=lambda: _connect("fd00:ec2::254", 80, socket.AF_INET6),
        world=lambda: _connect("2001:db8::1", 80, socket.AF_INET6),
    )
    return "unreachable" if seen in ("ENETUNREACH", "EADDRNOTAVAIL") else seen


@attack(gain="the world", seen="ENETUNREACH")
def send_to_the_world(target: Target):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        return each(
            tcp=lambda: _connect("192.0.2.1", 443),
            dns=lambda: client.sendto(b"x", ("192.0.2.53", 53)),
            private=lambda: client.sendto(b"x", ("10.0.0.1", 9)),
        )


@attack(gain="abstract sockets of the host", seen="ECONNREFUSED")
def connect_to_an_abstract_socket_of_the_host(target: Target):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(b"\0" + target["host_abstract"].encode())


@attack(gain="unix sockets of the host by their path", seen="ENOENT")
def connect_to_sockets_of_the_host(target: Target):
    def connect(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    paths = (
        "/run/systemd/private",
        "/run/dbus/system_bus_socket",
        "/var/run/docker.sock",
        "/run/pagurus/pagurusd.sock",
    )
    return each(**{path: lambda path=path: connect(path) for path in paths})


@attack(gain="other interfaces", seen=["lo"])
def list_interfaces(target: Target):
    return [name for _, name in socket.if_nameindex()]


@attack(gain="names of sockets of others", seen=[])
def list_sockets_of_others(target: Target):
    with open("/proc/net/unix") as table:
        return [line.split()[-1] for line in table if line.split()[-1].startswith(("@", "/"))]


@attack(gain="an address, route or interface", seen="EPERM")
def change_the_network(target: Target):
    SIOCSIFADDR, SIOCSIFFLAGS, SIOCADDRT = 0x8916, 0x8914, 0x890B
    request = struct.pack("16sH2x4s8x", b"lo", socket.AF_INET, socket.inet_aton("169.254.169.254"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return each(
            address=lambda: fcntl.ioctl(control, SIOCSIFADDR, request),
            flags=lambda: fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", 0)),
            route=lambda: fcntl.ioctl(control, SIOCADDRT, bytes(120)),
            mark=lambda: control.setsockopt(socket.SOL_SOCKET, 36, 1),
            netlink=lambda: _netlink_new_link(),
        )


def _netlink_new_link() -> None:
    RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, IFLA_IFNAME, IFLA_LINKINFO = 16, 1, 4, 0x400, 3, 18
    kind = struct.pack("=HH8s", 4 + 6, 1, b"dummy\0")
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
    body += (
        struct.pack("=HH8s", 4 + 5, IFLA_IFNAME, b"evil\0") + struct.pack("=HH", 4 + len(kind), IFLA_LINKINFO) + kind
    )
    head = struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.send(head + body)
        code = -struct.unpack_from("=i", link.recv(4096), 16)[0]
    if code:
        raise OSError(code, os.strerror(code))


@attack(gain="the hypervisor past every network namespace", seen="EPERM")
def connect_to_the_hypervisor_by_vsock(target: Target):
    VMADDR_CID_HOST = 2
    with socket.socket(AF_VSOCK, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        client.connect((VMADDR_CID_HOST, 1024))


@attack(gain="kernel code of rare socket families", seen="held")
def open_rare_socket_families(target: Target):
    families = {"alg": AF_ALG, "bluetooth": AF_BLUETOOTH, "key": AF_KEY, "can": AF_CAN, "x25": 9, "tipc": 30, "xdp": 44}
    kinds = {"alg": socket.SOCK_SEQPACKET, "x25": socket.SOCK_SEQPACKET, "tipc": socket.SOCK_SEQPACKET}
    seen = each(
        **{name: lambda name=name: socket.socket(families[name], kinds.get(name, socket.SOCK_RAW)) for name in families}
    )
    return held(seen, "EPERM", "EAFNOSUPPORT")  # the latter where this kernel is built without it


@attack(gain="a name of the host's resolver", seen="no name", at_import=NOT_RUN)
def resolve_names(target: Target):
    try:
        return socket.getaddrinfo("example.com", 80)
    except socket.gaierror:
        return "no name"
