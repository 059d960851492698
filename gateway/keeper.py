"""Keeps the node's zygotes as planned: feeds the pure state of gateway.scheduler, sends what it says."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from gateway.deployed import Version
from gateway.fleet import Fleet
from gateway.scheduler.plan import base_zygote_id
from gateway.scheduler.planner import Out, Planner
from gateway.scheduler.policy import FunctionModel, Policy
from gateway.scheduler.pressure import Pressure, Reading
from gateway.scheduler.relief import Relief, Relieved
from gateway.scheduler.zygotes import Zygotes, ZygoteState
from runtime import trust
from runtime.clock import Clock
from runtime.errors import StartError
from runtime.model import FunctionName, RuntimeName, ZygoteId
from runtime.protocol import DropZygote, EnsureZygote, MemoryReading, ToDaemon, ZygoteDied, ZygoteFailed, ZygoteReady

log = logging.getLogger(__name__)


class Keeper:
    """The zygotes of this node."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        policy: Policy,
        pressure: Pressure,
        send: Callable[[ToDaemon], None],
        trusted: Collection[str] = (),
    ) -> None:
        """trusted: the operator's `trusted_packages`."""
        self.policy = policy
        self.zygotes = Zygotes()
        self._planner = Planner(policy, fleet.pools, self.zygotes)
        self.quarantine = self._planner.quarantine
        self.relief = Relief(pressure, fleet.pools, self._planner)
        self._clock = clock
        self._fleet = fleet
        self._send = send
        self._trusted = frozenset(trusted)
        self._base_waiters: list[asyncio.Future[None]] = []

    def put_function(self, version: Version) -> None:
        """A function is new, or has another current version."""
        self._fleet.put_function(version)
        self._act(self._planner.put_function(self.model_of(version), self._clock.monotonic_s()))

    def model_of(self, version: Version) -> FunctionModel:
        """What the scheduler knows of a version, with what its tenant trusts beyond what everybody does."""
        packages = trust.untrusted(version.environment, self._trusted) if version.environment else frozenset[str]()
        return replace(version.model, packages=packages)

    def remove_function(self, name: FunctionName) -> None:
        """A function is gone."""
        self._fleet.remove_function(name)
        self._act(self._planner.remove_function(name, self._clock.monotonic_s()))

    def set_runtimes(self, runtimes: Sequence[RuntimeName]) -> None:
        """The node has other runtimes now: zygotes of new ones are made, those of others dropped."""
        if tuple(runtimes) != self.policy.runtimes:
            self._act(self._planner.set_runtimes(runtimes, self._clock.monotonic_s()))

    def ready(self, message: ZygoteReady) -> None:
        """A zygote can fork."""
        for name, error in message.failed.items():
            log.warning("zygote cannot import %s: %s", name, error, extra={"zygote": message.zygote})
        self._act(self._planner.ready(message, self._clock.monotonic_s()))
        self._wake()

    def failed(self, message: ZygoteFailed) -> None:
        """A zygote could not be made."""
        log.warning("zygote failed: %s: %s", message.phase, message.message, extra={"zygote": message.zygote})
        self._act(self._planner.failed(message, self._clock.monotonic_s()))
        self._wake()

    def died(self, message: ZygoteDied) -> None:
        """A zygote ended."""
        log.info("zygote died: %s", message.reason, extra={"zygote": message.zygote})
        self._act(self._planner.died(message, self._clock.monotonic_s()))
        self._wake()

    def tick(self) -> None:
        """Do what is due: the policy's plan, what has waited its pause, and what a lack of memory asks for."""
        now_s = self._clock.monotonic_s()
        self._act(self._planner.tick(now_s))
        self._relieve(self.relief.tick(now_s))

    def memory(self, message: MemoryReading) -> None:
        """pagurusd has looked at the node's memory."""
        reading = Reading(message.available_bytes, message.total_bytes, message.is_stalled)
        self._relieve(self.relief.heed(reading, self._clock.monotonic_s()))

    def missing(self) -> list[str]:
        """Why the node cannot start every function: base zygotes that are not ready."""
        reasons = []
        for runtime in self.policy.runtimes:
            entry = self.zygotes.entries.get(base_zygote_id(runtime))
            if entry is None or entry.state is not ZygoteState.READY:
                state = f"{entry.state}: {entry.reason}" if entry and entry.reason else "starting"
                reasons.append(f"zygote {base_zygote_id(runtime)} is not ready ({state})")
        return reasons if reasons or self.policy.runtimes else ["pagurusd has no runtime"]

    def has_base(self) -> bool:
        """Whether any runtime can be served."""
        return len(self.missing()) < max(1, len(self.policy.runtimes))

    async def wait_source(self, runtime: RuntimeName) -> ZygoteId:
        """Wait for the base zygote of `runtime`. Raises StartError when it was given up."""
        zygote = base_zygote_id(runtime)
        while zygote not in self._fleet.pools.sources.zygotes:
            entry = self.zygotes.entries.get(zygote)
            if entry is not None and entry.is_given_up:
                raise StartError("zygote", entry.reason)
            future = asyncio.get_running_loop().create_future()
            self._base_waiters.append(future)
            await future
        return zygote

    def _relieve(self, relieved: Relieved) -> None:
        for why in relieved.why:
            log.warning("%s", why)
        self._act(relieved.outs)

    def _wake(self) -> None:
        for future in self._base_waiters:
            if not future.done():
                future.set_result(None)
        self._base_waiters.clear()

    def _act(self, outs: Sequence[Out]) -> None:
        """Do what the planner says, in order."""
        for out in outs:
            if isinstance(out, EnsureZygote | DropZygote):
                entry = self.zygotes.entries.get(out.zygote)
                why = entry.spec.why if entry is not None and entry.spec is not None else ""
                log.info("%s: %s", type(out).__name__, why or "as planned", extra={"zygote": out.zygote})
                self._send(out)
            else:
                self._fleet.carry_out([out])
