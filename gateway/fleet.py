"""The sandboxes of this node as the gateway uses them: carries out the pools' decisions, runs invocations.

Lives in the gateway's one thread; every method runs to its end before the next event, so no locks.
"""

import asyncio
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from gateway.deployed import Version
from gateway.invocation import ENDING_KINDS, Failure, Invocation, failure_of_answer, failure_of_death
from gateway.output import OutputLog
from gateway.probe import Probe, Probes
from gateway.sandbox_link import Answer, SandboxLink, open_link
from gateway.scheduler.decisions import Decision, Freeze, Kill, Lease, Reject, Start
from gateway.scheduler.policy import Policy
from gateway.scheduler.pool import Limits as PoolLimits
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import Standby
from runtime.clock import Clock
from runtime.config import Settings
from runtime.errors import MemoryShortError, PoolExhaustedError, StartError
from runtime.frames import FrameKind
from runtime.model import FunctionName, InvocationId, SandboxId
from runtime.protocol import (
    AssignSandbox,
    FreezeSandbox,
    KillSandbox,
    SandboxAssigned,
    SandboxDied,
    SandboxOffered,
    SandboxRefused,
    StartSandbox,
    ToDaemon,
)

log = logging.getLogger(__name__)

CAUSE_WAIT_S = 2.0  # from a worker's end to the reason why

_DRAINING = Failure(word="draining", detail="this node stops and takes no new work", retry_after_s=1.0)


class Fleet:
    """Links, pools and running invocations. `poll_node` delivers what pagurusd has sent already."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[ToDaemon], None],
        record: Callable[[Invocation], None],
        poll_node: Callable[[], None],
    ) -> None:
        limits = PoolLimits(
            sandboxes_max=settings.sandboxes_max,
            function_concurrency=settings.function_concurrency,
            queue_per_function=settings.queue_per_function,
            freeze_after_s=settings.freeze_after_s,
        )
        self.tickets = itertools.count(1)
        self.pools = Pools(limits, self.tickets, policy)
        self.probes = Probes(loop, send, self.kill)
        self.links: dict[SandboxId, SandboxLink] = {}
        self.is_draining = False
        self.start_kinds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self._clock = clock
        self._loop = loop
        self._send = send
        self._record = record
        self._poll_node = poll_node
        self._versions: dict[FunctionName, Version] = {}
        self._invocations: dict[InvocationId, Invocation] = {}
        self._on_empty: list[asyncio.Future[None]] = []

    # --- invocations -------------------------------------------------------------------------------------

    @property
    def running_count(self) -> int:
        """Invocations without an answer."""
        return len(self._invocations)

    async def invoke(self, version: Version, payload: bytes) -> Invocation:
        """Run one invocation to its answer, which is in the result; never raises for the function's fault.

        Cancelled: the invocation goes on and is recorded, nobody gets its answer.
        """
        limits = version.limits
        invocation = Invocation(
            version.function,
            version.id,
            payload,
            now_s=self._clock.monotonic_s(),
            wall_s=self._clock.wall_s(),
            timeout_s=limits.timeout_s,
            output=OutputLog(limits.log_bytes),
            future=self._loop.create_future(),
        )
        self._invocations[invocation.id] = invocation
        if self.is_draining:
            self._finish(invocation, _DRAINING)
            return invocation
        invocation.timer = self._loop.call_later(limits.timeout_s, self._time_out, invocation)
        try:
            self.carry_out(self.pools.request(invocation.id, version.function, invocation.arrived_s))
        except PoolExhaustedError as error:
            word = "memory-short" if isinstance(error, MemoryShortError) else "queue-full"
            self._finish(invocation, Failure(word=word, detail=error.message, retry_after_s=error.retry_after_s))
        except KeyError:
            self._finish(invocation, _deleted(version.function))
        if not invocation.is_done:
            await invocation.future
        return invocation

    def current(self, name: FunctionName) -> Version:
        """The current version of a deployed function."""
        return self._versions[name]

    async def wait_empty(self) -> None:
        """Wait until no invocation runs."""
        while self._invocations:
            future = self._loop.create_future()
            self._on_empty.append(future)
            await future

    def put_function(self, version: Version) -> None:
        """Make `version` the current one of its function. The keeper tells the pools."""
        self._versions[version.function] = version

    def remove_function(self, name: FunctionName) -> None:
        """Forget a function; what runs or waits is answered with unknown-function."""
        self._versions.pop(name, None)

    def close(self) -> None:
        """Answer what still runs and close all links: the sandboxes stay, for the next gateway."""
        self.is_draining = True
        for invocation in list(self._invocations.values()):
            self._finish(invocation, _DRAINING)
        for link in self.links.values():
            link.close()

    def tick(self) -> None:
        """Freeze and retire what is idle."""
        self.carry_out(self.pools.tick(self._clock.monotonic_s()))

    # --- messages of pagurusd ----------------------------------------------------------------------------

    def offered(self, message: SandboxOffered, descriptors: list[int]) -> None:
        """A sandbox may be used; takes the descriptors over."""
        link = None if message.sandbox in self.links else open_link(self._loop, message.sandbox, descriptors, self)
        if link is None:
            self._send(KillSandbox(sandbox=message.sandbox, reason="offer"))
            return
        self.links[message.sandbox] = link
        if message.state == "standby":
            standby = Standby(message.sandbox, message.zygote, message.runtime, message.environment)
            self.carry_out(self.pools.add_standby(standby, self._clock.monotonic_s()))
        elif message.state == "starting" and message.ticket is not None:
            link.is_assigned = False
            if not self.probes.started(message.ticket, link):
                self.carry_out(self.pools.started(message.ticket, link.sandbox, self._clock.monotonic_s()))
        elif message.state == "assigned" and message.assignment is not None:
            function, version = message.assignment.function, message.assignment.version
            decisions = self.pools.adopt_begin(message.sandbox, function, version, message.zygote)
            self.carry_out(decisions)
            if not decisions:
                self.probes.ping(link, functools.partial(self._adopted, link))
        else:
            self.kill(link, "offer")

    def assigned(self, message: SandboxAssigned) -> None:
        """A sandbox has its function, and its start took so long."""
        link = self.links.get(message.sandbox)
        if link is not None and not link.is_assigned:  # else its first answer was faster: too late to tell
            link.is_assigned = True
            link.phases_ms = message.phases_ms

    def refused(self, message: SandboxRefused) -> None:
        """A fork could not be done."""
        phase, text = message.phase, message.message
        if not self.probes.refused(message.ticket, f"{phase}: {text}"):
            self.carry_out(self.pools.refused(message.ticket, phase, text, self._clock.monotonic_s()))

    def died(self, message: SandboxDied) -> None:
        """A sandbox is gone: answer its invocation, or start that again if it never ran."""
        link = self.links.pop(message.sandbox, None)
        if link is None:
            return
        link.is_doomed = True
        link.poll()  # the answer may lie in the socket still
        link.close()
        call, link.call = link.call, None
        never_ready = message.error if isinstance(call, Invocation) else ""
        if isinstance(call, Invocation) and not link.has_begun:
            never_ready = never_ready or "the sandbox had ended before the request reached it"
        decisions = self.pools.died(message.sandbox, self._clock.monotonic_s(), never_ready=never_ready)
        if isinstance(call, Probe):
            call.end(message)
        elif isinstance(call, Invocation) and not never_ready:
            self._finish(call, failure_of_death(message))
        if message.error:
            log.warning("sandbox never ready: %s", message.error, extra={"sandbox": message.sandbox})
        self.carry_out(decisions)

    # --- events of links ---------------------------------------------------------------------------------

    def answered(self, link: SandboxLink, answer: Answer) -> None:
        """A worker answered its call."""
        call, link.call = link.call, None
        if isinstance(call, Invocation):
            self._answer_invocation(link, call, answer)
        elif isinstance(call, Probe):
            link.pipes.drain()
            call.end(answer)

    def closed(self, link: SandboxLink) -> None:
        """A worker's socket ended: pagurusd will say why, or we go without."""
        if link.is_doomed:
            return
        if link.call is None:
            self.kill(link, "closed")
        else:
            self._loop.call_later(CAUSE_WAIT_S, self._go_without_cause, link)

    def broke(self, link: SandboxLink, word: str, detail: str) -> None:
        """A worker broke a rule: its invocation fails, its sandbox ends."""
        if link.is_doomed:
            return
        call, link.call = link.call, None
        problem = {"output": "function-output-limit", "result-size": "function-result-too-large"}.get(word)
        if isinstance(call, Invocation):
            link.pipes.drain()
            self._finish(call, Failure(word=problem or "function-crashed", detail=detail))
        elif isinstance(call, Probe):
            call.end(detail)
        log.warning("%s", detail, extra={"sandbox": link.sandbox})
        self.kill(link, word)

    def kill(self, link: SandboxLink, reason: str) -> None:
        """End a sandbox of the pools or a private one."""
        decisions = self.pools.kill(link.sandbox, reason)
        if decisions:
            self.carry_out(decisions)
        elif not link.is_doomed:
            link.is_doomed = True
            self._send(KillSandbox(sandbox=link.sandbox, reason=reason))

    def _adopted(self, link: SandboxLink) -> None:
        self.carry_out(self.pools.adopt_done(link.sandbox, self._clock.monotonic_s()))

    # --- decisions ---------------------------------------------------------------------------------------

    def carry_out(self, decisions: Sequence[Decision]) -> None:
        """Do what the pools decided, in order."""
        for decision in decisions:
            if isinstance(decision, Lease):
                self._lease(decision)
            elif isinstance(decision, Start):
                assignment = self._versions[decision.function].assignment
                self._send(StartSandbox(ticket=decision.ticket, zygote=decision.zygote, assignment=assignment))
            elif isinstance(decision, Kill):
                self._carry_out_kill(decision)
            elif isinstance(decision, Freeze):
                self._send(FreezeSandbox(sandbox=decision.sandbox, frozen=True))
            else:
                self._reject(decision)

    def _lease(self, lease: Lease) -> None:
        link = self.links[lease.sandbox]
        invocation = self._invocations[lease.request]
        version = self._versions[lease.function]
        if lease.assign:
            self._send(AssignSandbox(sandbox=lease.sandbox, assignment=version.assignment))
            link.is_assigned, link.is_standby = False, True
        elif lease.thaw:
            self._send(FreezeSandbox(sandbox=lease.sandbox, frozen=False))
        now_s = self._clock.monotonic_s()
        invocation.leased_s, invocation.kind, invocation.sandbox = now_s, lease.kind, lease.sandbox
        invocation.version, invocation.note = lease.version, lease.note
        link.send(
            invocation,
            FrameKind.INVOKE,
            invocation.id.encode(),
            invocation.payload,
            time_left_ms=max(1, int((invocation.deadline_s - now_s) * 1000)),
            result_bytes_max=version.limits.result_bytes,
            output=invocation.output,
        )

    def _carry_out_kill(self, kill: Kill) -> None:
        link = self.links.get(kill.sandbox)
        if link is not None:
            call, link.call, link.is_doomed = link.call, None, True
            if isinstance(call, Invocation):
                self._finish(call, _deleted(call.function))
            elif isinstance(call, Probe):
                call.end(kill.reason)
        self._send(KillSandbox(sandbox=kill.sandbox, reason=kill.reason))

    def _reject(self, reject: Reject) -> None:
        invocation = self._invocations.get(reject.request)
        if invocation is None:
            return
        if isinstance(reject.error, StartError) and reject.error.phase != "deleted":
            detail = f"no sandbox could be started: {reject.error.phase}: {reject.error.message}"
            self._finish(invocation, Failure(word="start-failed", detail=detail, retry_after_s=1.0))
        else:
            self._finish(invocation, _deleted(invocation.function))

    # --- inside ------------------------------------------------------------------------------------------

    def _answer_invocation(self, link: SandboxLink, invocation: Invocation, answer: Answer) -> None:
        failure: Failure | None = None
        is_reusable = answer.kind == FrameKind.RESULT
        if is_reusable:
            invocation.result = answer.payload
        elif answer.kind == FrameKind.ERROR:
            kind, failure = failure_of_answer(answer.payload)
            is_reusable = bool(kind) and kind not in ENDING_KINDS
        else:
            failure = Failure(word="function-crashed", detail="the worker answered PONG to an invocation")
        if not link.is_assigned:
            self._poll_node()  # SandboxAssigned was sent before the answer, mostly
            link.is_assigned = True
        link.pipes.drain()
        if link.phases_ms is not None:
            invocation.phases_ms.update(link.phases_ms)
            link.phases_ms = None
        if answer.import_us:
            invocation.phases_ms["imports"] = answer.import_us / 1000
        invocation.phases_ms["run"] = answer.handler_us / 1000
        now_s = self._clock.monotonic_s()
        self._finish(invocation, failure, now_s)
        if not link.is_doomed:
            served_s, all_s = answer.handler_us / 1e6, now_s - invocation.arrived_s
            pools = self.pools
            self.carry_out(
                pools.release(link.sandbox, now_s, reusable=is_reusable, service_s=served_s, latency_s=all_s)
            )

    def _finish(self, invocation: Invocation, failure: Failure | None, now_s: float | None = None) -> None:
        """Give an invocation its end, once."""
        if self._invocations.pop(invocation.id, None) is None:
            return
        if invocation.timer is not None:
            invocation.timer.cancel()
        now_s = self._clock.monotonic_s() if now_s is None else now_s
        phases = invocation.phases_ms
        phases["queue"] = ((invocation.leased_s or now_s) - invocation.arrived_s) * 1000
        phases["total"] = (now_s - invocation.arrived_s) * 1000
        if failure is not None:
            invocation.failure, invocation.result = failure, None
            self.failures[failure.word] += 1
        if invocation.kind is not None:
            self.start_kinds[invocation.kind] += 1
        self._record(invocation)
        invocation.payload = b""
        if not invocation.future.done():
            invocation.future.set_result(None)
        if not self._invocations:
            for future in self._on_empty:
                if not future.done():
                    future.set_result(None)
            self._on_empty.clear()

    def _time_out(self, invocation: Invocation) -> None:
        if invocation.is_done:
            return
        link = self.links.get(SandboxId(invocation.sandbox)) if invocation.sandbox else None
        if link is not None and link.call is invocation:
            link.pipes.drain()
            link.call = None
            where = "it was running" if link.is_assigned else "its sandbox was starting"
        else:
            link = None
            self.pools.withdraw(invocation.id, invocation.function)
            where = "it was waiting for a sandbox"
        detail = f"no answer within timeout_s = {invocation.timeout_s:g} s: {where}"
        self._finish(invocation, Failure(word="function-timed-out", detail=detail))
        if link is not None:
            self.kill(link, "timeout")

    def _go_without_cause(self, link: SandboxLink) -> None:
        call, link.call = link.call, None
        if isinstance(call, Invocation):
            self._finish(call, failure_of_death(None))
        elif isinstance(call, Probe):
            call.end("the sandbox closed its connection and did not say why")
        if not link.is_doomed:
            self.kill(link, "closed")


def _deleted(name: FunctionName) -> Failure:
    return Failure(word="unknown-function", detail=f"function {name} was deleted")
