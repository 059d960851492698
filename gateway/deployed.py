"""The functions that are deployed, in memory: what an invocation needs to know without asking the store."""

import msgspec

from gateway.scheduler.policy import OWN_CODE, FunctionModel
from gateway.secrets import NO_SECRETS, Secrets
from runtime.model import (
    DEFAULT_TENANT,
    Assignment,
    CodeId,
    Conflict,
    Environment,
    FunctionName,
    ImportCost,
    Limits,
    RuntimeName,
    VersionId,
)

__all__ = ["OWN_CODE", "Version"]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a function, as it is stored."""

    function: FunctionName
    id: VersionId
    code: CodeId
    environment: Environment | None
    runtime: RuntimeName
    handler: str
    limits: Limits
    environ: dict[str, str]
    requirements: str
    lock: str
    created_s: float
    policy: str = ""
    egress: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    reuse: bool = True  # whether a sandbox serves more than one invocation
    conflicts: tuple[Conflict, ...] = ()
    import_costs: dict[str, ImportCost] = {}  # measured at deploy, by distribution; OWN_CODE: the function itself
    secrets: Secrets = NO_SECRETS

    @property
    def model(self) -> FunctionModel:
        """The part that the scheduler knows."""
        environment = self.environment
        return FunctionModel(
            self.function,
            self.id,
            self.runtime,
            environment=environment.id if environment else None,
            distributions={one.name: one.version for one in environment.distributions} if environment else {},
            imports=environment.imports if environment else (),
            costs=self.import_costs,
            tenant=self.tenant,
            policy=self.policy,
            modules=environment.modules if environment else {},
            requires=environment.requires if environment else {},
            reuse=self.reuse,
        )

    @property
    def assignment(self) -> Assignment:
        """What a sandbox needs to become this version's, with its secrets. Raises SecretsError."""
        return Assignment(
            function=self.function,
            version=self.id,
            code=self.code,
            handler=self.handler,
            environment=self.environment.id if self.environment else None,
            limits=self.limits,
            egress=self.egress,
            tenant=self.tenant,
            environ={**self.environ, **self.secrets.reveal()} if self.secrets.names else self.environ,
        )
