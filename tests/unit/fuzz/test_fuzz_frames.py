"""Frames and messages of sandboxes and zygotes, which may be hostile: worker, gateway and pagurusd read them."""

import asyncio
import fcntl
import json
import os
import socket
import tempfile
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import deploys
from gateway.invocation import UserError, failure_of_answer
from gateway.output import OutputLog
from gateway.sandbox_link import SandboxLink
from runtime import packets, protocol, sealed
from runtime.errors import PagurusError, ProtocolError, StartError
from runtime.fork import client as zygote_client
from runtime.fork import worker
from runtime.frames import HEADER, MAGIC, FrameKind, pack
from runtime.model import Environment, EnvironmentId, Limits
from runtime.packets import Packet
from runtime.sandbox import sandbox
from tests.unit.fuzz.fuzzing import DEEP, JSON, examples, mutations, objects, ours

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long examples
ID = b"0123456789abcdef"
ANSWERS = (
    pack(FrameKind.RESULT, ID, b'{"a": 1}', 5, 6),
    pack(FrameKind.ERROR, ID, b'{"kind": "exit", "type": "E", "message": "m", "traceback": ["a"]}'),
    pack(FrameKind.PONG, ID, b""),
    HEADER.pack(MAGIC, FrameKind.RESULT, len(ID), 1 << 30, 0, 0) + ID + b"x" * 100,
    HEADER.pack(MAGIC, FrameKind.ERROR, len(ID), 0xFFFFFFFF, 0, 0) + ID,
)


class Owner:
    """Counts what a link tells."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def answered(self, link: SandboxLink, answer: Any) -> None:
        link.call = None
        self.events.append("answered")

    def closed(self, link: SandboxLink) -> None:
        self.events.append("closed")

    def broke(self, link: SandboxLink, word: str, detail: str) -> None:
        assert word in ("protocol", "result-size", "output") and len(detail) < 1000
        link.is_doomed = True
        self.events.append(word)


@examples(150)
@given(mutations(*ANSWERS), st.lists(st.integers(1, 40), max_size=6))
def test_the_gateway_s_link_survives_any_bytes_of_a_worker(data: bytes, cuts: list[int]):
    async def live() -> None:
        ours_end, theirs = socket.socketpair()
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        owner = Owner()
        link = SandboxLink(asyncio.get_running_loop(), "s", (ours_end.detach(), out, err), owner)  # type: ignore[arg-type]
        try:
            log = OutputLog(100)
            link.send("call", FrameKind.INVOKE, ID, b"1", time_left_ms=1, result_bytes_max=1000, output=log)
            theirs.setblocking(False)
            for piece in _pieces(data, cuts):
                try:
                    theirs.send(piece)
                except OSError:
                    break  # the gateway has hung up, or does not read so fast
                link.poll()
            theirs.close()
            link.poll()
            assert len(link._in) <= 2000 + len(data) and len(owner.events) <= 2
            assert owner.events.count("answered") <= 1
        finally:
            link.close()
            for fd in (out_theirs, err_theirs):
                os.close(fd)

    asyncio.run(live())


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    for length in cuts:
        found.append(data[:length])
        data = data[length:]
    return [piece for piece in (*found, data) if piece]


@examples(100)
@given(st.one_of(mutations(ANSWERS[1][len(ID) + 16 :]), objects(kind=st.text(), type=st.text(), traceback=JSON)))
def test_an_error_s_payload_becomes_a_failure(data: bytes):
    kind, failure = failure_of_answer(data)
    msgspec.json.encode(failure)
    assert isinstance(kind, str) and failure.word and (failure.error is None or isinstance(failure.error, UserError))


@examples(100)
@given(st.one_of(mutations(b'{"dep": [1.5, 100], "": [0, 0]}'), objects(dep=st.tuples(st.floats(), st.integers()))))
def test_measured_costs_of_a_check_are_numbers_in_bounds(data: bytes):
    version = SimpleNamespace(
        environment=Environment(id="e" * 64, runtime="python3.11", distributions=(), imports=()), limits=Limits()
    )
    for cost in deploys._costs(data, version).values():  # type: ignore[arg-type]
        assert 0 <= cost.ms <= 60_000 and 0 <= cost.memory_bytes <= Limits().memory_bytes


REPORTS = (
    b'{"kind":"parked","ns":{"fork":1,"isolate":2,"park":3}}',
    b'{"kind":"failed","step":"setns net","errno":1}',
    b'{"kind":"failed","step":"x","errno":1e400}',
    b'{"kind":"parked","ns":{"fork":1' + b"0" * 400 + b"}}",
)


@examples(150)
@given(
    st.one_of(
        mutations(*REPORTS),
        objects(kind=st.sampled_from(["parked", "failed"]), ns=st.dictionaries(st.just("fork"), JSON), errno=JSON),
    )
)
def test_a_helper_s_report_is_phases_or_a_start_error(data: bytes):
    phases = ours(lambda: sandbox._phases_ms(data), StartError)
    assert phases is None or all(isinstance(ms, float) for ms in phases.values())


CONFIGURED = (
    b'{"kind":"ready","threads":1,"import_ms":{"dep":1.5},"failed":{"bad":"E: x"},"uncovered":{"e":"x"}}',
    b'{"kind":"ready","import_ms":{"dep":Infinity},"failed":{},"uncovered":{}}',
    b'{"kind":"imported","faults":["x"]}',
    b'{"kind":"ready","import_ms":{"dep":1' + b"0" * 400 + b'},"failed":{},"uncovered":{}}',
)


REPORT = objects(
    kind=st.sampled_from(["ready", "imported", "begun"]), import_ms=JSON, failed=JSON, uncovered=JSON, faults=JSON
)


class Control:
    """A zygote's control socket with answers in it, and its end behind them."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    def send(self, data: bytes, descriptors: object = None) -> None:
        pass

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass

    async def receive(self) -> Packet:
        return Packet(self._answers.pop(0) if self._answers else b"", [])


def _client(*answers: bytes) -> zygote_client.ZygoteClient:
    pidfd = os.open("/dev/null", os.O_RDONLY)
    return zygote_client.ZygoteClient(Control(*answers), 1, pidfd, None)  # type: ignore[arg-type]


@examples(150)
@given(st.one_of(mutations(*CONFIGURED), REPORT), st.integers(0, 3))
def test_a_zygote_s_report_is_taken_or_a_start_error(data: bytes, place: int):
    answers = [b'{"kind":"begun"}', b'{"kind":"imported"}', b'{"kind":"imported"}', CONFIGURED[0]]
    answers[place] = data

    async def live() -> None:
        client = _client(*answers)
        try:
            found = await client.configure(
                imports=["dep", "bad"],
                environments={EnvironmentId("e"): ()},
                zygote_filter=b"",
                helper_filter=b"",
                look=list,
            )
            assert all(len(text) <= 500 for text in (*found.failed.values(), *found.uncovered.values()))
        except StartError as error:
            assert len(str(error)) < 1000
        finally:
            client.close()

    asyncio.run(live())


SPAWNED = (b'{"kind":"spawned","id":1}', b'{"kind":"refused","id":1,"message":"no"}', b'{"kind":"refused"}')


@examples(150)
@given(st.one_of(mutations(*SPAWNED), objects(kind=st.sampled_from(["refused", "spawned"]), message=JSON)))
def test_a_zygote_s_answer_ends_in_its_request(data: bytes):
    """Its text goes into a message to the gateway, which has a length."""

    async def live() -> None:
        client = _client()
        requested = client.request_helper(
            environment=None, hostname="h", uid=1, standby=False, descriptors=[], has_cgroup=False
        )
        is_well = client._take(data, [])
        assert requested.done() and (is_well or requested.exception() is not None)
        error = requested.exception()
        assert isinstance(error, StartError) and len(str(error)) < 1000
        client.close()

    asyncio.run(live())


@examples(100)
@given(mutations(pack(FrameKind.INVOKE, b"id", b"[1]", 5), pack(FrameKind.PING, b"id", b"")))
def test_a_worker_out_of_step_ends(data: bytes):
    """Its gateway is trusted; whoever wrote into the socket, the worker reads a frame or stops."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        try:
            writer.send(data)
        except BlockingIOError:
            return
        writer.close()
        function = object.__new__(worker.Function)
        function._socket = reader.fileno()
        frame = function._receive()
        assert frame is None or len(frame[2]) <= len(data)


PROTOCOL = (
    protocol.encode(protocol.Hello()),
    protocol.encode(protocol.KillSandbox(sandbox="z.1", reason="idle")),
    protocol.encode(protocol.SandboxDied(sandbox="z.1", signal=9)),
    protocol.encode(protocol.ZygoteReady(zygote="z", runtime="r", environments=(), start_ms=1, memory_bytes=1)),
)


DEEP_MESSAGES = st.sampled_from([0x81, 0x91, 0xDD, 0xDF]).map(lambda byte: bytes([byte]) * 100_000)


@examples(150)
@given(st.one_of(mutations(*PROTOCOL), DEEP_MESSAGES))
def test_a_message_is_decoded_or_a_protocol_error(data: bytes):
    ours(lambda: protocol.decode_to_daemon(data), ProtocolError)
    ours(lambda: protocol.decode_to_gateway(data), ProtocolError)


@examples(60)
@given(st.binary(max_size=100), st.integers(0, 40))
def test_a_packet_is_received_or_a_protocol_error_and_no_descriptor_stays(data: bytes, count: int):
    before = len(os.listdir("/proc/self/fd"))
    left, right = packets.packet_pair()
    with left, right, tempfile.TemporaryFile() as file:
        socket.send_fds(left, [data or b"x"], [file.fileno()] * count)
        packet = ours(lambda: packets.receive(right), ProtocolError)
        if packet is not None:
            assert len(packet.descriptors) == count and packet.data == (data or b"x")
            for fd in packet.descriptors:
                os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


@examples(60)
@given(st.one_of(mutations(b'{"codes": ["c"], "environments": ["e"]}'), DEEP))
def test_a_sealed_file_is_unsealed_or_a_protocol_error(data: bytes):
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sealed._SEALS)
        ours(lambda: sealed.unseal(fd, protocol.Keep), PagurusError)
    finally:
        os.close(fd)


def test_a_refusal_of_a_zygote_is_cut_to_what_a_message_takes():
    """Found here: a long one made pagurusd fail to tell the gateway that the sandbox had died."""

    async def live() -> None:
        client = _client()
        requested = client.request_helper(
            environment=None, hostname="h", uid=1, standby=False, descriptors=[], has_cgroup=False
        )
        client._take(json.dumps({"kind": "refused", "message": "x" * 900_000}).encode(), [])
        with pytest.raises(StartError) as caught:
            requested.result()
        protocol.encode(protocol.SandboxDied(sandbox="z.1", error=str(caught.value)))
        client.close()

    asyncio.run(live())
