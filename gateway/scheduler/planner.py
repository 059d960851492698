"""From a policy's plan to zygotes: asks it when it is due, keeps the directory of live ones true. Pure.

The same object serves the gateway and the simulator: what pagurusd tells comes in, with the time; what is to be
done comes out.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from gateway.scheduler.decisions import Decision
from gateway.scheduler.plan import base_zygote_id
from gateway.scheduler.policy import OWN_CODE, FunctionModel, Policy, ZygoteSpec
from gateway.scheduler.pools import Pools
from gateway.scheduler.quarantine import Quarantine
from gateway.scheduler.sources import LiveZygote
from gateway.scheduler.zygotes import Action, Zygotes, ZygoteState
from runtime.model import EnvironmentId, FunctionName, ImportCost, RuntimeName, ZygoteId
from runtime.protocol import DropZygote, ZygoteDied, ZygoteFailed, ZygoteReady

Out = Decision | Action


class Planner:
    """Policy, pools and zygotes of one node.

    What holds for every policy is done here, so that none can get it wrong: whose a zygote is follows from who has
    deployed its environments, and an environment in quarantine is shown to no policy.
    """

    def __init__(self, policy: Policy, pools: Pools, zygotes: Zygotes) -> None:
        self.policy = policy
        self.zygotes = zygotes
        self.quarantine = Quarantine()
        self._pools = pools
        self._users: dict[EnvironmentId, dict[FunctionName, FunctionModel]] = {}
        self._used: dict[FunctionName, EnvironmentId] = {}
        self._wanted: tuple[ZygoteSpec, ...] = ()  # by the policy
        self._plan: tuple[ZygoteSpec, ...] = ()  # what of that memory allows
        self.is_pressed = False
        self._given_up: frozenset[ZygoteId] = frozenset()

    def put_function(self, model: FunctionModel, now_s: float) -> list[Out]:
        """A function is new, or has another version."""
        self._use(model.name, model)
        return self._show(model, now_s)

    def remove_function(self, name: FunctionName, now_s: float) -> list[Out]:
        """A function is gone."""
        self._use(name, None)
        return [*self._pools.remove_function(name, now_s)]

    def set_runtimes(self, runtimes: Sequence[RuntimeName], now_s: float) -> list[Out]:
        """The node has other runtimes now."""
        self.policy.set_runtimes(runtimes, now_s)
        return self.plan(now_s)

    def tick(self, now_s: float) -> list[Out]:
        """Ask the policy when it is due; try again what failed and has waited its pause."""
        out: list[Out] = [*self.zygotes.tick(now_s)]
        out += self._show_all(self.quarantine.tick(now_s), now_s)
        return [*out, *self.plan(now_s)] if now_s >= self.policy.next_plan_s() else out

    def plan(self, now_s: float) -> list[Out]:
        """Make the zygotes fit what the policy wants now."""
        self._wanted = tuple(self.policy.plan(now_s))
        return self._fit(now_s)

    def press(self, now_s: float, *, without: ZygoteId | None = None) -> list[Out]:
        """Memory is short: nothing is made ahead until `relax`, and the zygote `without` is given up."""
        self.is_pressed = True
        self._given_up |= {without} if without is not None else set()
        return self._fit(now_s)

    def relax(self, now_s: float) -> list[Out]:
        """Memory is enough: what the policy wants is made again."""
        self.is_pressed, self._given_up = False, frozenset()
        return self._fit(now_s)

    def expendable(self) -> list[ZygoteId]:
        """Zygotes that are up or on their way, without base zygotes."""
        alive = (ZygoteState.STARTING, ZygoteState.READY)
        entries = self.zygotes.entries.values()
        return [one.id for one in entries if one.state in alive and one.spec is not None and not _is_base(one.spec)]

    def _affordable(self, spec: ZygoteSpec) -> bool:
        return _is_base(spec) or (spec.id in self.zygotes.entries and spec.id not in self._given_up)

    def _fit(self, now_s: float) -> list[Out]:
        wanted = tuple(self._with_tenants(spec) for spec in self._wanted)
        if self.is_pressed:
            wanted = tuple(replace(spec, standbys=()) for spec in wanted if self._affordable(spec))
        if wanted == self._plan:
            return []
        self._plan = wanted
        actions = self.zygotes.set_plan(wanted)
        out: list[Out] = [*actions]
        for action in actions:
            if isinstance(action, DropZygote):
                self._pools.zygote_down(action.zygote)
        for zygote in list(self._pools.sources.zygotes.values()):  # the directory says whom they help now
            entry = self.zygotes.entries.get(zygote.id)
            if entry is None or entry.spec is None:
                continue
            if (entry.spec.functions, entry.spec.tenants) != (zygote.functions, zygote.tenants):
                out += self._pools.zygote_up(self._live(entry.spec, zygote), now_s)
        return out

    def next_due_s(self) -> float:
        """When `tick` has something to do."""
        return min(self.policy.next_plan_s(), self.zygotes.next_due_s(), self.quarantine.next_due_s())

    def ready(self, message: ZygoteReady, now_s: float) -> list[Out]:
        """A zygote can fork."""
        before = self.zygotes.entries.get(message.zygote)
        was_ready = before is not None and before.state is ZygoteState.READY
        out: list[Out] = [*self.zygotes.ready(message, now_s)]
        entry = self.zygotes.entries[message.zygote]
        if entry.state is ZygoteState.READY:
            spec = entry.spec or _found(message)
            helped = self._directory(spec, message)
            uncovered = set(spec.environments) - set(message.environments)
            if not was_ready:
                self.policy.zygote_up(message.zygote, message.memory_bytes, message.start_ms, now_s)
                self.policy.uncovered(message.zygote, uncovered, now_s)
            if not helped.is_base or entry.is_base or message.zygote == base_zygote_id(message.runtime):
                out += self._pools.zygote_up(helped, now_s)  # else it has packages, but helps nobody
        for action in out:
            if isinstance(action, DropZygote):
                self._pools.zygote_down(action.zygote)
        return out

    def failed(self, message: ZygoteFailed, now_s: float) -> list[Out]:
        """A zygote could not be made."""
        self._down(message.zygote, message.message, now_s)
        out: list[Out] = [*self.zygotes.failed(message, now_s), *self._hopeless(message.zygote)]
        if message.can_be_alone and self._separate(message, now_s):
            return [*out, *self.plan(now_s)]
        return [*out, *self._keep_out(message.zygote, message.suspect, now_s, is_refused=message.is_refused)]

    def died(self, message: ZygoteDied, now_s: float) -> list[Out]:
        """A zygote ended."""
        self._down(message.zygote, message.reason, now_s)
        out: list[Out] = [*self.zygotes.died(message, now_s), *self._hopeless(message.zygote)]
        return [*out, *self._keep_out(message.zygote, "", now_s, is_refused=message.is_refused)]

    def has_base(self, runtime: RuntimeName) -> bool:
        """Whether functions of the runtime can be started."""
        entry = self.zygotes.entries.get(base_zygote_id(runtime))
        return entry is not None and entry.state is ZygoteState.READY

    def _down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:
        self._pools.zygote_down(zygote)
        self.policy.zygote_down(zygote, reason, now_s)

    def _hopeless(self, zygote: ZygoteId) -> list[Out]:
        """Who waits for a runtime whose base zygote is given up need not wait."""
        entry = self.zygotes.entries.get(zygote)
        if entry is None or entry.spec is None or not (entry.is_base and entry.is_given_up):
            return []
        return [*self._pools.runtime_hopeless(entry.spec.runtime, entry.reason)]

    # --- quarantine

    def _keep_out(self, zygote: ZygoteId, suspect: str, now_s: float, *, is_refused: bool) -> list[Out]:
        """A zygote was refused, or given up: no policy sees the environments that are to blame for a while."""
        entry = self.zygotes.entries.get(zygote)
        if entry is None or entry.spec is None or not entry.spec.environments:
            return []
        if not (is_refused or entry.is_given_up):
            return []
        known, culprits = self._blamed(entry.spec, suspect)
        out = self._show_all(self.quarantine.refused(known, culprits, entry.reason, now_s), now_s)
        return [*out, *self.plan(now_s)] if now_s >= self.policy.next_plan_s() else out

    def _separate(self, message: ZygoteFailed, now_s: float) -> bool:
        """Have the policy put those to blame into zygotes of their own; whether it does."""
        entry = self.zygotes.entries.get(message.zygote)
        if entry is None or entry.spec is None or len(entry.spec.environments) < 2:
            return False
        _, culprits = self._blamed(entry.spec, message.suspect)
        return bool(culprits) and self.policy.uncovered(message.zygote, culprits, now_s)

    def _blamed(self, spec: ZygoteSpec, suspect: str) -> tuple[list[EnvironmentId], list[EnvironmentId]]:
        """The spec's environments that a function has, and those of them that have the suspect's module."""
        known = [one for one in spec.environments if one in self._users]
        return known, [one for one in known if suspect and suspect in self._modules(one)]

    def _show_all(self, environments: Collection[EnvironmentId], now_s: float) -> list[Out]:
        models = [model for one in sorted(environments) for model in self._users.get(one, {}).values()]
        return [out for model in models for out in self._show(model, now_s)]

    def _show(self, model: FunctionModel, now_s: float) -> list[Out]:
        """Put a function into its pool, and show it to the policy, as the quarantine says."""
        suspicion = self.quarantine.suspicion(model.environment)
        model = replace(model, obstacle=suspicion.reason if suspicion else "")
        return [*self._pools.put_function(model, now_s, shown=self._shown(model))]

    def _shown(self, model: FunctionModel) -> FunctionModel:
        """A function as policies see it: in quarantine, one whose packages are its own code's business."""
        if not model.obstacle:
            return model
        own = model.costs.get(OWN_CODE, ImportCost(0.0, 0))
        whole = ImportCost(own.ms + model.import_ms, own.memory_bytes + model.import_bytes)
        return replace(
            model, environment=None, distributions={}, imports=(), costs={OWN_CODE: whole}, modules={}, requires={}
        )

    def _modules(self, environment: EnvironmentId) -> set[str]:
        models = self._users[environment].values()
        found = {module for model in models for module in model.imports}
        return found | {one for model in models for modules in model.modules.values() for one in modules}

    # --- whose

    def _with_tenants(self, spec: ZygoteSpec) -> ZygoteSpec:
        """The spec with those tenants that have deployed each of its environments; who once had stays in it."""
        having = [{model.tenant for model in self._users.get(one, {}).values()} for one in spec.environments]
        tenants = frozenset[str](set.intersection(*having) if having else ())
        entry = self.zygotes.entries.get(spec.id)
        before = entry.spec.tenants if entry is not None and entry.spec is not None else frozenset[str]()
        return replace(spec, tenants=tenants | before)

    def _packages(self, environments: Collection[EnvironmentId]) -> frozenset[str] | None:
        """What they hold and not everybody trusts; None where that is not known of one."""
        found: set[str] = set()
        for one in environments:
            packages = next((model.packages for model in self._users.get(one, {}).values()), None)
            if packages is None:
                return None
            found |= packages
        return frozenset(found)

    def _use(self, name: FunctionName, model: FunctionModel | None) -> None:
        """Remember which environments functions have; what none has is forgotten."""
        before = self._used.pop(name, None)
        if before is not None:
            del self._users[before][name]
            if not self._users[before] and (model is None or model.environment != before):
                del self._users[before]
        if model is not None and model.environment is not None:
            self._used[name] = model.environment
            self._users.setdefault(model.environment, {})[name] = model

    def _directory(self, spec: ZygoteSpec, message: ZygoteReady) -> LiveZygote:
        """Whom the zygote covers, and whom it helps in part, by what it has really imported.

        What failed to import in it counts as imported: it fails in the function too, or is found only there.
        """
        imported = set(message.import_ms) | set(message.failed)
        covered: set[EnvironmentId] = set()
        saves_ms: dict[EnvironmentId, float] = {}
        for environment in message.environments:
            wanted = self._imports(environment)
            if wanted is None or imported.issuperset(wanted):
                covered.add(environment)
            elif (saved_ms := sum(message.import_ms.get(module, 0.0) for module in wanted)) > 0:
                saves_ms[environment] = saved_ms
        entry = self.zygotes.entries[message.zygote]
        packages = self._packages(spec.environments) if entry.spec is not None else None
        live = LiveZygote(message.zygote, message.runtime, frozenset(covered), saves_ms, packages=packages)
        return self._live(spec, live)

    def _imports(self, environment: EnvironmentId) -> tuple[str, ...] | None:
        return next((model.imports for model in self._users.get(environment, {}).values()), None)

    def _live(self, spec: ZygoteSpec, known: LiveZygote) -> LiveZygote:
        return replace(known, functions=spec.functions, owner=spec.owner, tenants=spec.tenants)


def _is_base(spec: ZygoteSpec) -> bool:
    return spec.id == base_zygote_id(spec.runtime)


def _found(message: ZygoteReady) -> ZygoteSpec:
    """What is known of a zygote that a former gateway has left; what it has beyond those it helps is not."""
    spec = ZygoteSpec(message.zygote, message.runtime, message.environments, tuple(message.import_ms), ())
    return replace(spec, tenants=frozenset(message.tenants))
