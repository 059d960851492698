"""The policies that a node can have, by name. Pure."""

from collections.abc import Sequence

from gateway.scheduler.policies.adaptive import Adaptive
from gateway.scheduler.policies.keepalive import KeepAlive
from gateway.scheduler.policies.pagurus import Paper
from gateway.scheduler.policies.prewarm import Prewarm
from gateway.scheduler.policies.sock import Sock
from gateway.scheduler.policy import Policy, PolicySettings
from runtime.errors import ConfigError
from runtime.model import RuntimeName

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Adaptive, KeepAlive, Prewarm, Sock, Paper)}


def make(name: str, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> Policy:
    """A new policy that knows nothing yet. Raises ConfigError for an unknown name or a setting out of range."""
    policy = POLICIES.get(name)
    if policy is None:
        raise ConfigError(f"unknown policy {name!r}", hint=f"choose one of {', '.join(sorted(POLICIES))}")
    return policy(settings, runtimes)
