"""The node's policy, made from its settings."""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.scheduler import policies
from gateway.scheduler.policy import Policy, PolicySettings
from runtime.config import Settings
from runtime.errors import ConfigError
from runtime.model import RuntimeName


def make_policy(settings: Settings, runtimes: Sequence[RuntimeName]) -> Policy:
    """The policy that `policy` names, with policy_options above the node's own settings. Raises ConfigError."""
    values: dict[str, Any] = {
        "keep_alive_s": settings.idle_timeout_s,
        "zygotes_max": settings.zygotes_max,
        "standbys": settings.standbys_per_zygote,
        "memory_bytes": settings.idle_memory_bytes,
    }
    known = set(PolicySettings.__dataclass_fields__)
    unknown = sorted(set(settings.policy_options) - known)
    if unknown:
        hint = f"the options are {', '.join(sorted(known))}"
        raise ConfigError(f"policy_options has no {unknown[0]!r}", hint=hint)
    try:
        options = msgspec.convert({**values, **settings.policy_options}, PolicySettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad policy_options: {error}", hint="see docs/configuration.md") from error
    return policies.make(settings.policy, options, runtimes)
