"""The functions that are deployed, in memory: what an invocation needs to know without asking the store."""

import msgspec

from gateway.scheduler.decisions import FunctionSpec
from runtime.model import (
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

OWN_CODE = ""


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
    conflicts: tuple[Conflict, ...] = ()
    import_costs: dict[str, ImportCost] = {}  # measured at deploy, by distribution; OWN_CODE: the function itself

    @property
    def spec(self) -> FunctionSpec:
        """The part that the scheduler knows."""
        environment = self.environment.id if self.environment else None
        return FunctionSpec(self.function, self.id, self.runtime, environment)

    @property
    def assignment(self) -> Assignment:
        """What a sandbox needs to become this version's."""
        return Assignment(
            function=self.function,
            version=self.id,
            code=self.code,
            handler=self.handler,
            environment=self.environment.id if self.environment else None,
            limits=self.limits,
            environ=self.environ,
        )
