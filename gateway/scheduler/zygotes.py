"""From the zygotes that are to the zygotes that should be, step by step. Pure.

New zygotes are ensured first; old ones are dropped only when every new one is ready or has failed, so that
a change of the plan costs nobody a cold start. What failed or died is ensured again, with growing pauses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.scheduler.policy import ZygoteSpec
from runtime.model import ZygoteId
from runtime.protocol import DropZygote, EnsureZygote, ZygoteDied, ZygoteFailed, ZygoteReady

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
TRIES_MAX = 5  # of a package zygote; a base zygote is tried for ever
STEADY_S = 120.0  # a zygote that lived this long starts again with the first pause

Action = EnsureZygote | DropZygote


class ZygoteState(StrEnum):
    """STARTING -> READY | FAILED; READY -> FAILED (died) | ENDING; FAILED -> STARTING."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    ENDING = "ending"


@dataclass(slots=True)
class ZygoteEntry:
    """One zygote. `spec` None: found alive, not in the plan. `tries`: in a row, without a steady life."""

    id: ZygoteId
    spec: ZygoteSpec | None
    state: ZygoteState = ZygoteState.STARTING
    tries: int = 0
    retry_at_s: float | None = None
    ready_at_s: float = 0.0
    reason: str = ""
    start_ms: float = 0.0
    memory_bytes: int = 0
    import_ms: dict[str, float] = field(default_factory=dict)
    failed_imports: dict[str, str] = field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether it is the base zygote of its runtime."""
        return self.spec is not None and not self.spec.environments

    @property
    def is_given_up(self) -> bool:
        """Whether it failed so often that nobody should wait for it."""
        return self.state is ZygoteState.FAILED and self.tries >= TRIES_MAX


class Zygotes:
    """All zygotes of this node, with their way towards the plan."""

    def __init__(self) -> None:
        self.entries: dict[ZygoteId, ZygoteEntry] = {}

    def set_plan(self, specs: Sequence[ZygoteSpec]) -> list[Action]:
        """Make `specs` the plan."""
        out: list[Action] = []
        wanted = {spec.id: spec for spec in specs}
        for entry in list(self.entries.values()):
            if entry.spec is None and entry.state is ZygoteState.FAILED:
                del self.entries[entry.id]  # it was not wanted any more: if it is again, it is tried anew
                continue
            spec = wanted.pop(entry.id, None)
            retarget = spec is not None and entry.spec != spec
            entry.spec = spec
            if spec is not None and retarget and entry.state in (ZygoteState.READY, ZygoteState.STARTING):
                out.append(ensure(spec))
        for spec in wanted.values():
            self.entries[spec.id] = ZygoteEntry(spec.id, spec)
            out.append(ensure(spec))
        self._drop_unwanted(out)
        return out

    def ready(self, message: ZygoteReady, now_s: float) -> list[Action]:
        """A zygote is parked, or its standby targets were set."""
        out: list[Action] = []
        entry = self.entries.setdefault(message.zygote, ZygoteEntry(message.zygote, None))
        if entry.state is ZygoteState.ENDING:
            return out
        if entry.state is not ZygoteState.READY:
            entry.ready_at_s = now_s
        entry.state, entry.retry_at_s, entry.reason = ZygoteState.READY, None, ""
        entry.start_ms, entry.memory_bytes = message.start_ms, message.memory_bytes
        entry.import_ms, entry.failed_imports = dict(message.import_ms), dict(message.failed)
        self._drop_unwanted(out)
        return out

    def failed(self, message: ZygoteFailed, now_s: float) -> list[Action]:
        """A zygote could not be made."""
        reason = f"{message.phase}: {message.message}"
        return self._fell(message.zygote, reason, now_s, is_refused=message.is_refused)

    def died(self, message: ZygoteDied, now_s: float) -> list[Action]:
        """A zygote ended, asked for or not."""
        entry = self.entries.get(message.zygote)
        if entry is None:
            return []
        if entry.state is ZygoteState.ENDING and entry.spec is not None:
            # Wanted again while it was ending.
            entry.state = ZygoteState.STARTING
            return [ensure(entry.spec)]
        if entry.state is ZygoteState.READY and now_s - entry.ready_at_s >= STEADY_S:
            entry.tries = 0
        return self._fell(message.zygote, message.reason or "it died", now_s, is_refused=message.is_refused)

    def tick(self, now_s: float) -> list[Action]:
        """Ensure again what has waited its pause."""
        out: list[Action] = []
        for entry in self.entries.values():
            if entry.retry_at_s is not None and now_s >= entry.retry_at_s and entry.spec is not None:
                entry.state, entry.retry_at_s = ZygoteState.STARTING, None
                out.append(ensure(entry.spec))
        return out

    def next_due_s(self) -> float:
        """When `tick` has something to do; infinity when nothing failed."""
        return min((e.retry_at_s for e in self.entries.values() if e.retry_at_s is not None), default=float("inf"))

    def _fell(self, zygote: ZygoteId, reason: str, now_s: float, *, is_refused: bool) -> list[Action]:
        out: list[Action] = []
        entry = self.entries.get(zygote)
        if entry is None:
            return out
        if entry.spec is None:
            del self.entries[zygote]
            return out
        entry.state, entry.reason = ZygoteState.FAILED, reason
        entry.tries += 1
        if is_refused and not entry.is_base:
            entry.tries = TRIES_MAX  # it would do the same again
        entry.retry_at_s = None
        if entry.tries < TRIES_MAX or entry.is_base:
            entry.retry_at_s = now_s + min(BACKOFF_FIRST_S * 2.0 ** min(entry.tries - 1, 10), BACKOFF_MAX_S)
        self._drop_unwanted(out)
        return out

    def _drop_unwanted(self, out: list[Action]) -> None:
        if any(entry.spec is not None and entry.state is ZygoteState.STARTING for entry in self.entries.values()):
            return
        for entry in list(self.entries.values()):
            if entry.spec is not None or entry.state is ZygoteState.ENDING:
                continue
            if entry.state is ZygoteState.FAILED:
                del self.entries[entry.id]
            else:
                entry.state = ZygoteState.ENDING
                out.append(DropZygote(zygote=entry.id))


def ensure(spec: ZygoteSpec) -> EnsureZygote:
    """The message that asks for a zygote."""
    return EnsureZygote(
        zygote=spec.id,
        runtime=spec.runtime,
        environments=spec.environments,
        imports=spec.imports,
        standbys=spec.standbys,
        tenants=tuple(sorted(spec.tenants)),
    )
