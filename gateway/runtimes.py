"""The runtimes of this node: which are built, which is the default, adding one and giving one up.

pagurusd builds and removes; here is decided whether it may, and the zygotes follow.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.builds import Builds, Progress
from gateway.keeper import Keeper
from gateway.registry import Registry
from gateway.scheduler.plan import base_zygote_id
from gateway.scheduler.zygotes import ZygoteState
from runtime.errors import ConfigError, PagurusError
from runtime.model import FunctionName, RuntimeName
from runtime.protocol import Base, RuntimesChanged
from runtime.suites import SUITES

HOST_RUNTIME = RuntimeName(f"python{sys.version_info.major}.{sys.version_info.minor}")
NAMES_SHOWN_MAX = 5


class UnknownRuntimeError(ConfigError):
    """No runtime of this name can be built, or it is not built."""


class RuntimeInUseError(PagurusError):
    """A runtime cannot be given up now."""


@dataclass(frozen=True, slots=True)
class Row:
    """One known runtime. `base` None: not built. `zygote`: state of its base zygote, or None if it has none."""

    name: RuntimeName
    suite: str
    base: Base | None
    is_building: bool
    is_default: bool
    functions: tuple[FunctionName, ...]
    zygote: ZygoteState | None
    zygote_reason: str


def default_runtime(chosen: str, built: Sequence[RuntimeName], host: RuntimeName = HOST_RUNTIME) -> RuntimeName | None:
    """The runtime of a deploy that names none: the chosen one, else the host's if it is built, else the newest.

    Not simply the first or the newest: to add a runtime must not change what the next deploy runs on.
    """
    if chosen:
        return RuntimeName(chosen)
    if host in built:
        return host
    return built[-1] if built else None


class Runtimes:
    """See the module. `bases` are sorted by version."""

    def __init__(self, bases: Sequence[Base], chosen: str, keeper: Keeper, registry: Registry, builds: Builds) -> None:
        """chosen: the setting default_runtime."""
        self.bases = tuple(bases)
        self._chosen = chosen
        self._keeper = keeper
        self._registry = registry
        self._builds = builds
        self._building: Counter[RuntimeName] = Counter()
        self._deploying: Counter[RuntimeName] = Counter()
        self._removing: set[RuntimeName] = set()

    @property
    def names(self) -> tuple[RuntimeName, ...]:
        """Those that functions can be deployed on."""
        return tuple(base.runtime for base in self.bases if base.runtime not in self._removing)

    @property
    def default(self) -> RuntimeName | None:
        """The runtime of a deploy that names none."""
        return default_runtime(self._chosen, self.names)

    def changed(self, message: RuntimesChanged) -> None:
        """pagurusd has made one or given one up."""
        self.bases = message.runtimes
        self._keeper.set_runtimes([base.runtime for base in self.bases])
        self._builds.runtimes_changed(message)

    def rows(self) -> list[Row]:
        """All runtimes that are built or can be, by version."""
        bases = {base.runtime: base for base in self.bases}
        suites = {name: suite.name for name, suite in SUITES.items()} | {n: base.suite for n, base in bases.items()}
        return [self._row(name, suites[name], bases.get(name)) for name in sorted(suites, key=_version)]

    async def add(self, runtime: RuntimeName, progress: Progress) -> tuple[Row, bool]:
        """Build a runtime, unless it is built, and wait until its base zygote can fork; whether it is new.

        Raises UnknownRuntimeError, BuildError, StartError. Cancelled: the build is stopped, if nobody else waits.
        """
        if runtime not in SUITES:
            raise UnknownRuntimeError(f"runtime {runtime} is not known", hint=f"choose one of {', '.join(SUITES)}")
        is_new = runtime not in self.names
        with _counted(self._building, runtime):
            await self._builds.build_runtime(runtime, progress)
        if self._zygote(runtime)[0] != ZygoteState.READY:
            progress("zygote", "starting its base zygote", None)
        await self._keeper.wait_source(runtime)
        return next(row for row in self.rows() if row.name == runtime), is_new

    async def remove(self, runtime: RuntimeName) -> None:
        """Give a runtime up. Raises UnknownRuntimeError, RuntimeInUseError that says what uses it, BuildError."""
        if runtime not in self.names:
            raise UnknownRuntimeError(f"runtime {runtime} is not built", hint=f"built are {', '.join(self.names)}")
        if functions := self._functions(runtime):
            raise RuntimeInUseError(
                f"runtime {runtime} is used by {_listed(functions)}",
                hint="deploy them on another runtime, or remove them",
            )
        if self._deploying[runtime] or self._building[runtime]:
            raise RuntimeInUseError(
                f"a deploy or a build of runtime {runtime} runs", hint="try again when it has ended"
            )
        if self.names == (runtime,):
            raise RuntimeInUseError(f"{runtime} is the last runtime of this node", hint="add another one first")
        self._removing.add(runtime)
        try:
            await asyncio.shield(self._builds.drop_runtime(runtime))
        finally:
            self._removing.discard(runtime)

    @contextmanager
    def deploying(self, runtime: RuntimeName) -> Iterator[None]:
        """While a deploy on it runs, a runtime is not given up. Raises UnknownRuntimeError when it has been."""
        if runtime not in self.names:
            raise not_built(runtime, self.names)
        with _counted(self._deploying, runtime):
            yield

    def _row(self, name: RuntimeName, suite: str, base: Base | None) -> Row:
        zygote, reason = self._zygote(name)
        return Row(
            name=name,
            suite=suite,
            base=base,
            is_building=self._building[name] > 0,
            is_default=name == self.default,
            functions=self._functions(name),
            zygote=zygote,
            zygote_reason=reason,
        )

    def _zygote(self, runtime: RuntimeName) -> tuple[ZygoteState | None, str]:
        """State of the base zygote, and why it failed."""
        entry = self._keeper.zygotes.entries.get(base_zygote_id(runtime))
        return (entry.state, entry.reason) if entry else (None, "")

    def _functions(self, runtime: RuntimeName) -> tuple[FunctionName, ...]:
        """Those whose current version runs on it."""
        return tuple(sorted(f.name for f in self._registry.functions.values() if f.version.runtime == runtime))


def not_built(runtime: str, built: Sequence[RuntimeName]) -> UnknownRuntimeError:
    """What a deploy on a runtime that is not built is told."""
    have = f"this node has {', '.join(built)}"
    if runtime in SUITES:
        return UnknownRuntimeError(
            f"runtime {runtime} is not built: {have}", hint=f"`pagurus runtimes add {runtime}` builds it"
        )
    known = f"choose one of {', '.join(SUITES)}; `pagurus runtimes` lists them"
    return UnknownRuntimeError(f"runtime {runtime!r} is not known: {have}", hint=known)


@contextmanager
def _counted(counter: Counter[RuntimeName], runtime: RuntimeName) -> Iterator[None]:
    counter[runtime] += 1
    try:
        yield
    finally:
        counter[runtime] -= 1


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _version(runtime: RuntimeName) -> tuple[int, ...]:
    return tuple(int(part) for part in runtime.removeprefix("python").split("."))
