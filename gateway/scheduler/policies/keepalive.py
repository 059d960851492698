"""Fixed keep-alive, and nothing else: what most platforms do. Pure.

Source: OpenWhisk's idle timeout of containers, 10 minutes by default (research/pagurus-reference.md, 2.9 `openwhisk`;
M. Shahrad et al., Serverless in the Wild, USENIX ATC 2020, section 2). Here, too, every start forks from the base
zygote, as only zygotes boot an interpreter (DESIGN section 4): the baseline has the same mechanism as the others.
"""

from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduler.lifetime import FixedLifetime
from gateway.scheduler.plan import base_specs
from gateway.scheduler.policy import ZygoteSpec


class KeepAlive(FixedLifetime):
    """Idle sandboxes stay `keep_alive_s`; base zygotes only, without standbys. Settings: keep_alive_s."""

    name: ClassVar[str] = "keepalive"

    def _specs(self) -> Sequence[ZygoteSpec]:
        return base_specs(self.runtimes)
