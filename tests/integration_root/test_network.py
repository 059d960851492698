"""What sandboxes reach, and what they never do. Every test has a host of its own: a network namespace.

`tests/outside.py` is the world around it. What a hostile program would have to be root for is done by root here, in
the sandbox's namespace.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import protocol, syscalls
from runtime.model import SandboxId
from runtime.netns import nft
from runtime.netns.ports import Ports
from runtime.syscalls import CloneFlag
from tests import leaks, outside
from tests.node_bed import Bed, open_bed, run_in_child, state_directory
from tests.outside import CGNAT, DOCUMENTATION, HOST, METADATA, PRIVATE, RESOLVER, WEB, WEB_B, Outside
from tests.pagurusd import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/usr/sbin/nft"), reason="needs nftables"),
]

TRY = """
import errno, socket

def attempt(kind, host, port, timeout=0.5):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    end.settimeout(timeout)
    try:
        if kind == "broadcast":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        end.connect((host, port))
        if kind != "tcp":
            end.send(b"from a sandbox")
        return end.recv(100).decode()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    finally:
        end.close()

def main(param):
    if param == "interfaces":
        return [name for _, name in socket.if_nameindex()]
    if param == "resolv.conf":
        return open("/etc/resolv.conf").read()
    if isinstance(param, str):
        try:
            return socket.gethostbyname(param)
        except OSError as error:
            return repr(error)
    return [attempt(*one) for one in param]
"""
LISTEN = """
import socket

servers = []

def main(port):
    servers.append(socket.create_server(("0.0.0.0", port)))
    return "listening"
"""
REFUSED = {"ECONNREFUSED", "timeout", "ENETUNREACH", "EACCES", "EPERM", "EADDRNOTAVAIL", "EHOSTUNREACH"}
SETTINGS = {"egress_resolvers": [RESOLVER]}


def in_world(*, forwards: bool = False, **settings: Any) -> Callable[..., Callable[[], None]]:
    """Make a test of a coroutine that gets a Bed and the outside. When the node has ended its host is as it was."""

    def decorate(scenario: Callable[[Bed, Outside], Awaitable[None]]) -> Callable[[], None]:
        def test() -> None:
            with state_directory() as scope, leaks.no_leaks(scope):

                async def live(world: Outside) -> None:
                    async with open_bed(scope, {**SETTINGS, **settings}) as bed:
                        await scenario(bed, world)

                def body() -> None:
                    outside.small_world(forwards=forwards)
                    with outside.internet() as world, host_as_it_was():
                        asyncio.run(live(world))

                run_in_child(body)

        test.__name__ = test.__qualname__ = scenario.__name__
        test.__module__ = scenario.__module__
        return test

    return decorate


@contextlib.contextmanager
def host_as_it_was() -> Iterator[None]:
    """Links, routes, rules and forwarding are the same at the end."""
    before = host_state()
    yield
    end_s = time.monotonic() + 5
    while (now := host_state()) != before:
        assert time.monotonic() < end_s, f"the host is not as it was: {now} instead of {before}"
        time.sleep(0.05)


def host_state() -> dict[str, str]:
    forwarding = {}
    for path in sorted(Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")):
        with contextlib.suppress(FileNotFoundError):  # of a port that goes just now
            forwarding[str(path)] = path.read_text()
    commands = ("ip -br link", "ip -4 route show table all", "nft list ruleset")
    return {
        **forwarding,
        **{one: subprocess.run(one.split(), check=True, capture_output=True, text=True).stdout for one in commands},
    }


async def start(bed: Bed, egress: tuple[str, ...], source: str = TRY) -> SandboxId:
    """A standby that became a function with this egress."""
    assignment = bed.assignment(bed.write_code(source), egress=egress)
    sandbox = await bed.parked()
    bed.assign(sandbox, assignment)
    await bed.until(lambda: sandbox in bed.dead or bed.told(protocol.SandboxAssigned, sandbox=sandbox))
    return sandbox


async def attempts(bed: Bed, sandbox: SandboxId, *wanted: tuple[str, str, int]) -> list[str]:
    answer = await bed.call(sandbox, [list(one) for one in wanted])
    assert isinstance(answer.value, list), answer
    return [str(one) for one in answer.value]


def address_of(bed: Bed, sandbox: SandboxId) -> str:
    """Of the sandbox's port, by the routes of the host."""
    with in_sandbox(bed, sandbox):
        text = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True, text=True).stdout
    (found,) = [info["local"] for link in json.loads(text) for info in link["addr_info"] if link["ifname"] == "eth0"]
    return str(found)


@contextlib.contextmanager
def in_sandbox(bed: Bed, sandbox: SandboxId) -> Iterator[None]:
    """As root in its network namespace: more than any code in a sandbox can be."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        syscalls.setns(bed.node._sandboxes[sandbox].network, CloneFlag.NEWNET)
        try:
            yield
        finally:
            syscalls.setns(home, CloneFlag.NEWNET)
    finally:
        os.close(home)


@in_world()
async def test_without_egress_there_is_loopback_only_and_the_host_is_untouched(bed: Bed, world: Outside):
    before = host_state()
    await bed.zygote()
    sandbox = await start(bed, ())
    assert (await bed.call(sandbox, "interfaces")).value == ["lo"]
    assert (await bed.call(sandbox, "resolv.conf")).value == ""
    found = await attempts(bed, sandbox, ("tcp", WEB, 80), ("udp", RESOLVER, 53), ("tcp", HOST, 80), ("udp", WEB, 80))
    assert set(found) == {"ENETUNREACH"}
    assert host_state() == before


@in_world()
async def test_internet_reaches_public_addresses_from_the_hosts_own(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet",))
    assert (await bed.call(sandbox, "interfaces")).value == ["lo", "eth0"]
    found = await attempts(bed, sandbox, ("tcp", WEB, 80), ("udp", WEB, 80), ("tcp", WEB_B, 8082))
    assert found == [HOST, HOST, HOST]
    assert (await bed.call(sandbox, "resolv.conf")).value.startswith(f"nameserver {RESOLVER}\n")
    assert (await bed.call(sandbox, "example.test")).value == WEB


@in_world()
async def test_internet_reaches_nothing_else(bed: Bed, world: Outside):
    servers = [socket.create_server(("0.0.0.0", port)) for port in (80, 8000)]
    six = socket.create_server(("::", 8006), family=socket.AF_INET6)
    await bed.zygote(standbys=2)
    sandbox = await start(bed, ("internet",))
    with socket.create_connection((HOST, 80), timeout=1):
        pass  # the host itself does reach it
    private = await attempts(
        bed, sandbox, *((kind, to, 80) for to in (PRIVATE, CGNAT, DOCUMENTATION) for kind in ("tcp", "udp"))
    )
    assert set(private) <= REFUSED, private
    never = [METADATA, HOST, "127.0.0.1", "10.201.0.1", "10.201.0.9", "10.201.255.254", "0.0.0.0"]
    found = await attempts(bed, sandbox, *(("tcp", to, port) for to in never for port in (80, 8000)))
    assert set(found) <= REFUSED, found
    many = await attempts(
        bed,
        sandbox,
        *(("broadcast", to, 80) for to in ("255.255.255.255", "5.5.5.255", "224.0.0.1", "10.201.255.255")),
    )
    assert set(many) <= REFUSED, many
    assert "from a sandbox" not in world.received()
    six_found = await attempts(bed, sandbox, *(("tcp", to, 8006) for to in ("fd00:ec2::254", "2001:db8::1")))
    assert set(six_found) <= REFUSED | {"EAFNOSUPPORT"}, six_found
    # The name server takes questions only.
    assert set(await attempts(bed, sandbox, ("tcp", RESOLVER, 80), ("udp", RESOLVER, 80))) <= REFUSED
    for server in (*servers, six):
        server.close()


@in_world()
async def test_denied_connections_fail_at_once(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet",))
    started_s = time.monotonic()
    found = await attempts(bed, sandbox, ("tcp", METADATA, 80), ("tcp", PRIVATE, 80), ("tcp", HOST, 22))
    assert found == ["ECONNREFUSED"] * 3
    assert time.monotonic() - started_s < 0.4


@in_world()
async def test_siblings_do_not_reach_each_other(bed: Bed, world: Outside):
    await bed.zygote(standbys=2)
    listening = await start(bed, ("internet", "10.201.0.0/16"), LISTEN)
    assert (await bed.call(listening, 8000)).value == "listening"
    sandbox = await start(bed, ("internet", "10.201.0.0/16"))
    target = address_of(bed, listening)
    with in_sandbox(bed, listening), socket.create_connection((target, 8000), timeout=1):
        pass  # it does listen
    assert await attempts(bed, sandbox, ("tcp", target, 8000)) == ["ECONNREFUSED"]
    with pytest.raises(OSError):
        socket.create_connection((target, 8000), timeout=0.3)  # nor does the host reach in


@in_world()
async def test_an_allow_list_is_exact(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, (f"{WEB}/32:80/tcp", "10.66.0.0/16:8080-8081", "93.184.216.35/32:443/udp"))
    yes = (("tcp", WEB, 80), ("tcp", PRIVATE, 8080), ("udp", PRIVATE, 8081), ("udp", WEB_B, 443))
    assert await attempts(bed, sandbox, *yes) == [HOST] * 4
    no = (
        *(("udp", WEB, 80), ("tcp", WEB, 443), ("tcp", WEB, 8080), ("tcp", WEB_B, 80), ("tcp", WEB_B, 443)),
        *(("tcp", PRIVATE, 8082), ("udp", PRIVATE, 80), ("tcp", METADATA, 80), ("tcp", HOST, 80), ("tcp", CGNAT, 8080)),
    )
    found = await attempts(bed, sandbox, *no)
    assert set(found) <= REFUSED, found
    assert (await bed.call(sandbox, "example.test")).value == WEB


@in_world()
async def test_a_rule_wider_than_private_ranges_means_public_addresses(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("0.0.0.0/0:80/tcp",))
    found = await attempts(
        bed, sandbox, ("tcp", WEB, 80), ("tcp", PRIVATE, 80), ("tcp", METADATA, 80), ("tcp", WEB, 443)
    )
    assert found == [HOST, "ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]


@in_world()
async def test_metadata_of_clouds_is_out_of_reach_of_any_rule(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet", "100.64.0.0/10", "168.0.0.0/8", "0.0.0.0/0"))
    wanted = (("tcp", CGNAT, 80), ("tcp", outside.WIRE_SERVER, 80), ("tcp", outside.ALIBABA, 80), ("tcp", METADATA, 80))
    assert await attempts(bed, sandbox, *wanted) == [HOST, "ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]


@in_world(egress_resolvers=[outside.WIRE_SERVER])
async def test_a_name_server_of_a_cloud_answers_questions_only(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet",))
    assert (await bed.call(sandbox, "example.test")).value == WEB
    assert await attempts(bed, sandbox, ("tcp", outside.WIRE_SERVER, 80)) == ["ECONNREFUSED"]


@in_world()
async def test_functions_with_different_egress_live_beside_each_other(bed: Bed, world: Outside):
    await bed.zygote(standbys=3)
    wide, narrow, none = [await start(bed, one) for one in (("internet",), (f"{WEB}/32:443",), ())]
    question = (("tcp", WEB, 80), ("tcp", WEB, 443))
    assert await attempts(bed, wide, *question) == [HOST, HOST]
    assert await attempts(bed, narrow, *question) == ["ECONNREFUSED", HOST]
    assert await attempts(bed, none, *question) == ["ENETUNREACH"] * 2
    counters = bed.node.status(1).counters
    assert (counters["egress_ports_made"], counters["egress_ports_now"], counters["egress_policies_now"]) == (2, 2, 2)


@in_world()
async def test_a_fork_now_has_its_egress_too(bed: Bed, world: Outside):
    await bed.zygote(standbys=0)
    sandbox = await bed.start("base", bed.assignment(bed.write_code(TRY), egress=("internet",)))
    assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]


@in_world()
async def test_packets_with_another_source_are_dropped(bed: Bed, world: Outside):
    await bed.zygote(standbys=2)
    sandbox, sibling = await start(bed, ("internet",)), await start(bed, ("internet",))
    own, other = address_of(bed, sandbox), address_of(bed, sibling)
    with in_sandbox(bed, sandbox):
        for source in (own, other, HOST, "8.8.8.8", "127.0.0.1", "10.201.77.77"):
            send_frame(0x0800, datagram(source, WEB, f"as {source}"))
    await bed.until(lambda: f"as {own}" in world.received())  # the frames are well made
    await asyncio.sleep(0.2)
    assert [one for one in world.received() if one.startswith("as ")] == [f"as {own}"]


@in_world()
async def test_nobody_listens_to_arp(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet",))
    own = address_of(bed, sandbox)
    with in_sandbox(bed, sandbox):
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        listener.settimeout(0.3)
        for target in (HOST, "10.201.0.1", outside.ROUTER):
            send_frame(0x0806, arp(1, own, target))
            send_frame(0x0806, arp(2, target, own))  # claims to be it
        with pytest.raises(TimeoutError):
            while True:
                kind, operation = struct.unpack_from(">H6xH", listener.recv(2000), 12)
                assert (kind, operation) != (0x0806, 2), "somebody answered"
        listener.close()
    neighbours = subprocess.run(["ip", "neigh"], check=True, capture_output=True, text=True).stdout
    assert "pg" not in neighbours
    assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]


@in_world()
async def test_a_namespace_that_somebody_keeps_is_cut_off_with_its_sandbox(bed: Bed, world: Outside):
    await bed.zygote()
    sandbox = await start(bed, ("internet",))
    assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]
    kept = os.dup(bed.node._sandboxes[sandbox].network)  # as its zygote could
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    await bed.end(sandbox)
    syscalls.setns(kept, CloneFlag.NEWNET)
    try:
        assert "eth0" in [name for _, name in socket.if_nameindex()]
        with pytest.raises(OSError):
            socket.create_connection((WEB, 80), timeout=0.3)
    finally:
        syscalls.setns(home, CloneFlag.NEWNET)
    os.close(kept)
    os.close(home)


@in_world(egress_connections_max=8)
async def test_connections_of_one_sandbox_are_limited(bed: Bed, world: Outside):
    holding = """
import socket
ends = []
def main(param):
    for _ in range(20):
        try:
            ends.append(socket.create_connection(("93.184.216.34", 80), timeout=0.5))
        except OSError:
            break
    return len(ends)
"""
    await bed.zygote(standbys=2)
    first, second = await start(bed, ("internet",), holding), await start(bed, ("internet",))
    assert (await bed.call(first)).value == 8
    assert await attempts(bed, second, ("tcp", WEB, 80)) == [HOST]


@in_world()
async def test_the_host_forwards_for_nobody_else(bed: Bed, world: Outside):
    other = Outside("up1", host="7.7.7.2", router="7.7.7.1", addresses=())
    try:
        world.run("ip route add 7.7.7.0/24 via 5.5.5.2")
        other.run("ip route add default via 7.7.7.2")
        await bed.zygote()
        sandbox = await start(bed, ("internet",))
        assert await attempts(bed, sandbox, ("tcp", WEB, 80), ("tcp", "7.7.7.1", 80)) == [HOST, "7.7.7.2"]
        world.send("through the host", "7.7.7.1", 80)
        world.send("into a sandbox", address_of(bed, sandbox), 80)
        await asyncio.sleep(0.2)
        assert "through the host" not in other.received()
    finally:
        other.close()
        outside.ip("link del up1")


@in_world(forwards=True)
async def test_a_host_that_forwards_goes_on_doing_so(bed: Bed, world: Outside):
    other = Outside("up1", host="7.7.7.2", router="7.7.7.1", addresses=())
    try:
        world.run("ip route add 7.7.7.0/24 via 5.5.5.2")
        await bed.zygote()
        sandbox = await start(bed, ("internet",))
        assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]
        world.send("through the host", "7.7.7.1", 80)
        await bed.until(lambda: "through the host" in other.received())
    finally:
        other.close()
        outside.ip("link del up1")


@in_world()
async def test_rules_of_others_are_left_alone(bed: Bed, world: Outside):
    nft.run("table inet other {\n chain input {\n type filter hook input priority 0\n counter\n }\n }\n")
    before = nft.run("list table inet other")
    await bed.zygote()
    await start(bed, ("internet",))
    assert nft.run("list table inet other").split("counter")[0] == before.split("counter")[0]
    nft.run("delete table inet other")


@in_world()
async def test_ports_go_with_their_sandboxes(bed: Bed, world: Outside):
    await bed.zygote()
    for _ in range(3):
        sandbox = await start(bed, ("internet",))
        assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]
        await bed.end(sandbox)
    await bed.until(lambda: not [name for _, name in socket.if_nameindex() if name.startswith("pg")])
    counters = bed.node.status(1).counters
    assert (counters["egress_ports_made"], counters["egress_ports_now"]) == (3, 0)


@in_world(egress_subnet="5.5.0.0/16")
async def test_a_subnet_that_the_host_has_is_refused_by_name(bed: Bed, world: Outside):
    refusal = bed.parts.egress.check()
    assert refusal.startswith("egress_subnet 5.5.0.0/16 collides with the host's 5.5.5.0/24 of up0")
    await bed.zygote(standbys=2)
    died = await bed.died(await start(bed, ("internet",)))
    assert "egress_subnet" in died.error
    assert (await bed.call(await start(bed, ()), "interfaces")).value == ["lo"]


@in_world()
async def test_a_failing_port_ends_its_start_only(bed: Bed, world: Outside):
    def attach(self: Ports, namespace: int, group: int) -> None:
        raise OSError(95, "Operation not supported")

    await bed.zygote(standbys=3)
    good = await start(bed, ("internet",))
    original, Ports.attach = Ports.attach, attach  # type: ignore[assignment, method-assign]
    died = await bed.died(await start(bed, ("internet",)))
    assert "cannot make a port: Operation not supported" in died.error
    Ports.attach = original  # type: ignore[method-assign]
    again = await start(bed, ("internet",))
    for sandbox in (good, again):
        assert await attempts(bed, sandbox, ("tcp", WEB, 80)) == [HOST]


def in_world_with_daemon(**settings: Any) -> Callable[..., Callable[[], None]]:
    """Make a test of a function that gets a Daemon, not started, on a host of its own."""

    def decorate(scenario: Callable[[Daemon], None]) -> Callable[[], None]:
        def test() -> None:
            with state_directory() as scope, leaks.no_leaks(scope):

                def body() -> None:
                    outside.small_world()
                    with outside.internet(), host_as_it_was():
                        scenario(Daemon(scope, egress_resolvers=RESOLVER, **settings))

                run_in_child(body)

        test.__name__ = test.__qualname__ = scenario.__name__
        test.__module__ = scenario.__module__
        return test

    return decorate


@in_world_with_daemon()
def test_rules_survive_a_killed_pagurusd_and_go_with_one_that_stops(daemon: Daemon):
    with daemon:
        tables = nft.run("list tables")
        assert tables == "", "no function has egress yet"
        deployed = daemon.deploy("out", TRY, egress=["internet", "10.66.0.0/16"])
        assert deployed["egress"] == ["internet", "10.66.0.0/16"]
        question = [("tcp", WEB, 80), ("tcp", PRIVATE, 80), ("tcp", CGNAT, 80)]
        assert daemon.result("out", question) == [HOST, HOST, "ECONNREFUSED"]
        shown = daemon.cli("show", "out").stdout
        assert "internet 10.66.0.0/16" in shown, shown
        daemon.kill()
        assert "pagurus_" in nft.run("list tables")
        daemon.start()
        daemon.wait_ready()
        assert "pagurus_" in nft.run("list tables")
        assert Path("/proc/sys/net/ipv4/conf/up0/forwarding").read_text() == "1\n"
        assert daemon.result("out", question) == [HOST, HOST, "ECONNREFUSED"]
        assert daemon.get("/v1/status")["counters"]["egress_ports_made"] >= 1


@in_world_with_daemon()
def test_uninstalling_removes_what_a_killed_pagurusd_left(daemon: Daemon):
    with daemon:
        daemon.deploy("out", TRY, egress="internet")
        assert daemon.result("out", [("tcp", WEB, 80)]) == [HOST]
        daemon.kill()
    command = [sys.executable, "-P", "-m", "runtime.netns.remove", str(daemon.scope.state_dir)]
    found = subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout
    assert "removed" in found and nft.run("list tables") == ""
    assert subprocess.run(command, cwd="/", check=True, capture_output=True, text=True).stdout == ""
    with daemon:  # what else it left, the next start clears
        pass


@in_world_with_daemon(egress_subnet="5.5.5.0/24")
def test_where_egress_is_impossible_a_deploy_says_why_and_others_work(daemon: Daemon):
    with daemon:
        assert "functions cannot have egress: egress_subnet" in daemon.log()
        answer = daemon.put("out", b"", egress="internet")
        assert (answer.status, answer.word) == (400, "invalid-settings")
        assert "egress_subnet 5.5.5.0/24 collides" in answer.json["detail"]
        daemon.deploy("in", TRY)
        assert daemon.result("in", [("tcp", WEB, 80)]) == ["ENETUNREACH"]


@in_world_with_daemon()
def test_a_wrong_rule_is_refused_with_the_reason(daemon: Daemon):
    with daemon:
        for wrong, word in (("nowhere", "CIDR"), (["10.0.0.1/8"], "host bits"), (["169.254.169.254/32"], "no sandbox")):
            answer = daemon.put("out", b"", egress=wrong)
            assert (answer.status, answer.word) == (400, "invalid-settings")
            assert word in answer.json["detail"], answer.json["detail"]


def send_frame(kind: int, content: bytes) -> None:
    """A raw frame out of eth0, to the other end's hardware address, which is its own."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind(("eth0", 0))
        hardware = end.getsockname()[4]
        end.send(hardware + hardware + struct.pack(">H", kind) + content)


def datagram(source: str, destination: str, text: str) -> bytes:
    """An IPv4 packet with a UDP datagram to port 80, without its optional checksum."""
    udp = struct.pack(">HHHH", 4000, 80, 8 + len(text), 0) + text.encode()
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack(">10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack(">H", checksum) + head[12:] + udp


def arp(operation: int, sender: str, target: str) -> bytes:
    """A request (1) or an answer (2), RFC 826."""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return head + b"\2\x50\0\0\0\7" + socket.inet_aton(sender) + b"\0" * 6 + socket.inet_aton(target)
