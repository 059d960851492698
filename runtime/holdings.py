"""What a zygote holds: the environments that are mounted in it, and whom it may help by the rule of tenants.

Runs in pagurusd, which does not rely on the gateway for that: it goes by the layers themselves.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from runtime import trust
from runtime.errors import StartError
from runtime.layers import Layers
from runtime.model import Assignment, Environment, EnvironmentId, LayerId, ZygoteId

log = logging.getLogger("pagurus.zygote")


@dataclass(frozen=True, slots=True)
class Holdings:
    """environments: by id. packages: the layers of all of them, but for those of trusted distributions."""

    environments: dict[EnvironmentId, Environment] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls, zygote: ZygoteId, layers: Layers, wanted: tuple[EnvironmentId, ...], trusted: Iterable[str]
    ) -> "Holdings":
        """Of those environments that are whole. Raises StartError when there is none, or two do not go together."""
        there = [one for one in wanted if layers.has_environment(one)]
        for lost in set(wanted) - set(there):
            log.warning("zygote=%s does without environment %s, which is not whole", zygote, lost[:12])
        if wanted and not there:
            raise StartError("rootfs", "its environments are not in the store", hint="deploy the functions again")
        known = {one: layers.manifest(one).environment for one in there}
        _refuse_conflict(known.values())
        names = frozenset(trusted)
        packages: set[str] = set()
        for one, environment in known.items():
            all_of_it = layers.index.environments[one]
            packages.update(trust.untrusted(environment, names) if environment.layers else all_of_it)
        return cls(known, frozenset(packages))

    def refuse_stranger(self, assignment: Assignment, tenants: Iterable[str], layers: Layers) -> None:
        """Raise StartError when the rule of tenants keeps a function out of this zygote's sandboxes."""
        if not self.packages or assignment.tenant in tenants:
            return
        wanted = assignment.environment
        own = frozenset[str](layers.index.environments.get(wanted, ()) if wanted is not None else ())
        if not trust.may_help(self.packages, (), own=own, tenant=assignment.tenant):
            raise StartError("trust", f"the zygote holds what tenant {assignment.tenant}'s function does not declare")


def _refuse_conflict(environments: Iterable[Environment]) -> None:
    """One version of a distribution only, and one file: modules are told apart by its name. Raises StartError."""
    versions: dict[str, str] = {}
    files: dict[str, LayerId] = {}
    for environment in environments:
        for one in environment.distributions:
            if versions.setdefault(one.name, one.version) != one.version:
                raise StartError("rootfs", f"{one.name} would be there as {versions[one.name]} and as {one.version}")
        for name, layer in environment.layers.items():
            if files.setdefault(name, layer) != layer:
                raise StartError("rootfs", f"{name} would be there from two different files")
