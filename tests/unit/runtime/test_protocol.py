"""Messages between pagurusd and the gateway: what is sent arrives, what is not allowed is refused."""

import contextlib
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import protocol
from runtime.errors import ProtocolError
from runtime.model import Assignment, Distribution, Environment, Limits
from runtime.tokens import Role, Token

ASSIGNMENT = Assignment(
    function="f",
    version="v" * 64,
    code="c" * 64,
    handler="main.main",
    environment=None,
    limits=Limits(),
    environ={"A": "é"},
)
ENVIRONMENT = Environment(id="e" * 64, runtime="python3.11", distributions=(Distribution("a", "1"),), imports=("a",))
TO_DAEMON = [
    protocol.Hello(),
    protocol.EnsureZygote(
        zygote="z",
        runtime="python3.11",
        environments=("e",),
        imports=("a",),
        standbys=(protocol.StandbyTarget(environment=None, count=2),),
    ),
    protocol.DropZygote(zygote="z"),
    protocol.AssignSandbox(sandbox="z.1", assignment=ASSIGNMENT),
    protocol.StartSandbox(ticket=1, zygote="z", assignment=ASSIGNMENT),
    protocol.FreezeSandbox(sandbox="z.1", frozen=True),
    protocol.KillSandbox(sandbox="z.1", reason="idle"),
    protocol.BuildVersion(build=1, function="f", runtime="python3.11", requirements="a\n"),
    protocol.BuildRuntime(build=2, runtime="python3.13"),
    protocol.DropRuntime(build=3, runtime="python3.13"),
    protocol.CancelBuild(build=1),
    protocol.CollectGarbage(ticket=3, dry_run=True),
    protocol.Discard(codes=("c",), environments=("e",)),
    protocol.GetNodeStatus(ticket=3),
]
BASE = protocol.Base(runtime="python3.11", suite="bookworm", python_version="3.11.2", digest="d" * 64)
TO_GATEWAY = [
    protocol.RuntimesChanged(build=2, runtimes=(BASE,)),
    protocol.Welcome(
        protocol=1,
        node="n",
        run="r",
        version="0",
        settings={"listen": "x"},
        runtimes=(BASE,),
        checks=(protocol.Check(name="c", ok=True, required=True, found="yes"),),
    ),
    protocol.ZygoteReady(
        zygote="z", runtime="python3.11", environments=(), start_ms=1.5, memory_bytes=1, import_ms={"a": 1.0}
    ),
    protocol.ZygoteFailed(zygote="z", phase="imports", message="no"),
    protocol.ZygoteDied(zygote="z", reason="dropped"),
    protocol.SandboxOffered(sandbox="z.1", zygote="z", runtime="python3.11", state="assigned", assignment=ASSIGNMENT),
    protocol.SandboxAssigned(sandbox="z.1", phases_ms={"assign": 0.1}),
    protocol.SandboxRefused(ticket=1, phase="fork", message="no"),
    protocol.SandboxDied(sandbox="z.1", signal=9, out_of_memory=True),
    protocol.BuildProgress(build=1, phase="resolve", message="x", fraction=0.5),
    protocol.BuildSucceeded(build=1, code="c", environment=ENVIRONMENT, lock="a==1\n"),
    protocol.BuildFailed(build=1, kind="archive", message="bad", hint="mend"),
    protocol.NodeStatus(
        ticket=3,
        sandboxes=(protocol.SandboxStatus(sandbox="z.1", zygote="z", state="parked", memory_bytes=1, pid=2, uid=3),),
        counters={"a": 1},
    ),
    protocol.MemoryReading(available_bytes=1, total_bytes=2, is_stalled=True),
    protocol.GarbageCollected(
        ticket=3,
        items=(protocol.GarbageItem(kind="layer", id="l", label="a==1", size_bytes=1, used_s=2.0),),
        count=1,
        freed_bytes=1,
        layers_bytes=2,
        store_bytes=3,
    ),
    protocol.Drain(grace_s=1.5),
    protocol.TokensChanged(tokens=(Token(name="a", sha256="0", role=Role.INVOKE, functions=("f",)),)),
]


def test_every_message_has_an_example_here():
    assert {type(message) for message in TO_DAEMON} == set(typing.get_args(protocol.ToDaemon))
    assert {type(message) for message in TO_GATEWAY} == set(typing.get_args(protocol.ToGateway))


@pytest.mark.parametrize("message", TO_DAEMON, ids=lambda message: type(message).__name__)
def test_what_the_gateway_sends_arrives(message: protocol.ToDaemon):
    assert protocol.decode_to_daemon(protocol.encode(message)) == message


@pytest.mark.parametrize("message", TO_GATEWAY, ids=lambda message: type(message).__name__)
def test_what_pagurusd_sends_arrives(message: protocol.ToGateway):
    assert protocol.decode_to_gateway(protocol.encode(message)) == message


@pytest.mark.parametrize("message", TO_DAEMON, ids=lambda message: type(message).__name__)
def test_neither_side_takes_its_own_messages(message: protocol.ToDaemon):
    with pytest.raises(ProtocolError):
        protocol.decode_to_gateway(protocol.encode(message))


def test_a_message_that_is_too_long_is_refused_by_its_sender_with_its_name():
    message = protocol.BuildVersion(build=1, function="f", runtime="python3.11", requirements="x" * 200_000)
    with pytest.raises(ProtocolError, match="BuildVersion"):
        protocol.encode(message)


def test_a_status_of_as_many_rows_as_a_node_sends_fits():
    row = protocol.SandboxStatus(
        sandbox="base-python3.11.100000",
        zygote="base-python3.11",
        state="assigned",
        memory_bytes=1 << 30,
        pid=1 << 22,
        uid=1,
    )
    assert protocol.encode(protocol.NodeStatus(ticket=1, sandboxes=(row,) * 1000))


def test_an_assignment_hides_its_secrets_from_logs():
    assert "é" not in repr(ASSIGNMENT) and "A" not in repr(ASSIGNMENT).replace("Assignment", "")


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "Nothing"}),
        msgspec.msgpack.encode({"type": "Hello", "protocol": "one"}),
        msgspec.msgpack.encode({"type": "KillSandbox", "sandbox": "z.1"}),
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode({"type": "KillSandbox", "sandbox": b"\xff", "reason": "x"}),
        protocol.encode(protocol.Hello()) + b"x",
        b"\x81\xa4type\xa5Hell\xff",
        b"\x91" * 5000,
    ],
)
def test_garbage_is_a_protocol_error(packet: bytes):
    for decode in (protocol.decode_to_daemon, protocol.decode_to_gateway):
        with pytest.raises(ProtocolError):
            decode(packet)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(packet: bytes):
    for decode in (protocol.decode_to_daemon, protocol.decode_to_gateway):
        with contextlib.suppress(ProtocolError):
            decode(packet)


@given(st.sampled_from(TO_DAEMON), st.integers(0, 400), st.integers(0, 255))
def test_no_changed_byte_raises_anything_else(message: protocol.ToDaemon, at: int, value: int):
    packet = bytearray(protocol.encode(message))
    packet[at % len(packet)] = value
    with contextlib.suppress(ProtocolError):
        protocol.decode_to_daemon(bytes(packet))
