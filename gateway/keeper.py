"""Keeps the node's zygotes as planned: feeds the pure state of gateway.scheduler, sends what it says."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from gateway.fleet import Fleet
from gateway.scheduler.plan import base_zygote_id, plan_zygotes
from gateway.scheduler.sources import LiveZygote
from gateway.scheduler.zygotes import Action, Zygotes, ZygoteState
from runtime.clock import Clock
from runtime.config import Settings
from runtime.errors import StartError
from runtime.model import Environment, RuntimeName, ZygoteId
from runtime.protocol import DropZygote, ToDaemon, ZygoteDied, ZygoteFailed, ZygoteReady

log = logging.getLogger(__name__)


class Keeper:
    """The zygotes of this node. `runtimes`: those that pagurusd can serve."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        fleet: Fleet,
        send: Callable[[ToDaemon], None],
        runtimes: Sequence[RuntimeName],
    ) -> None:
        self.zygotes = Zygotes()
        self._settings = settings
        self._clock = clock
        self._fleet = fleet
        self._send = send
        self._runtimes = tuple(runtimes)
        self._environments: tuple[Environment, ...] = ()
        self._base_waiters: list[asyncio.Future[None]] = []

    def plan(self, environments: Iterable[Environment]) -> None:
        """Make the zygotes fit the environments of all deployed functions."""
        self._environments = tuple(environments)
        specs = plan_zygotes(
            self._runtimes,
            self._environments,
            standbys_per_zygote=self._settings.standbys_per_zygote,
            zygotes_max=self._settings.zygotes_max,
        )
        self._act(self.zygotes.set_plan(specs))

    def set_runtimes(self, runtimes: Sequence[RuntimeName]) -> None:
        """The node has other runtimes now: zygotes of new ones are made, those of others dropped."""
        if tuple(runtimes) != self._runtimes:
            self._runtimes = tuple(runtimes)
            self.plan(self._environments)

    def ready(self, message: ZygoteReady) -> None:
        """A zygote can fork."""
        self._act(self.zygotes.ready(message, self._clock.monotonic_s()))
        zygote = LiveZygote(message.zygote, message.runtime, frozenset(message.environments))
        for name, error in message.failed.items():
            log.warning("zygote cannot import %s: %s", name, error, extra={"zygote": message.zygote})
        if self.zygotes.entries[message.zygote].state is ZygoteState.READY:
            self._fleet.carry_out(self._fleet.pools.zygote_up(zygote))
        self._wake()

    def failed(self, message: ZygoteFailed) -> None:
        """A zygote could not be made."""
        log.warning("zygote failed: %s: %s", message.phase, message.message, extra={"zygote": message.zygote})
        self._fleet.pools.zygote_down(message.zygote)
        self._act(self.zygotes.failed(message, self._clock.monotonic_s()))
        self._note_hopeless(message.zygote)

    def died(self, message: ZygoteDied) -> None:
        """A zygote ended."""
        log.info("zygote died: %s", message.reason, extra={"zygote": message.zygote})
        self._fleet.pools.zygote_down(message.zygote)
        self._act(self.zygotes.died(message, self._clock.monotonic_s()))
        self._note_hopeless(message.zygote)

    def tick(self) -> None:
        """Try again what is due."""
        self._act(self.zygotes.tick(self._clock.monotonic_s()))

    def missing(self) -> list[str]:
        """Why the node cannot start every function: base zygotes that are not ready."""
        reasons = []
        for runtime in self._runtimes:
            entry = self.zygotes.entries.get(base_zygote_id(runtime))
            if entry is None or entry.state is not ZygoteState.READY:
                state = f"{entry.state}: {entry.reason}" if entry and entry.reason else "starting"
                reasons.append(f"zygote {base_zygote_id(runtime)} is not ready ({state})")
        return reasons if reasons or self._runtimes else ["pagurusd has no runtime"]

    def has_base(self) -> bool:
        """Whether any runtime can be served."""
        return len(self.missing()) < max(1, len(self._runtimes))

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

    def _note_hopeless(self, zygote: ZygoteId) -> None:
        entry = self.zygotes.entries.get(zygote)
        if entry is not None and entry.spec is not None and entry.is_base and entry.is_given_up:
            self._fleet.carry_out(self._fleet.pools.runtime_hopeless(entry.spec.runtime, entry.reason))
        self._wake()

    def _wake(self) -> None:
        for future in self._base_waiters:
            if not future.done():
                future.set_result(None)
        self._base_waiters.clear()

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, DropZygote):
                self._fleet.pools.zygote_down(action.zygote)
            self._send(action)
