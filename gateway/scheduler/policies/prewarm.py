"""Keep-alive with stem cells: sandboxes of no function, made ahead of time. Pure.

Source: OpenWhisk's prewarmed containers, a fixed number for each runtime, given a function's code when it has no warm
one and made anew after that (research/pagurus-reference.md, 2.9 `prewarm`: two for the node). They hold no packages:
a function with some still imports them, so its start counts as cold.
"""

from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduler.lifetime import FixedLifetime
from gateway.scheduler.plan import base_specs
from gateway.scheduler.policy import ZygoteSpec
from runtime.model import FunctionName


class Prewarm(FixedLifetime):
    """Idle sandboxes stay `keep_alive_s`; each runtime's base zygote keeps `stem_cells` standbys.

    Settings: keep_alive_s, stem_cells.
    """

    name: ClassVar[str] = "prewarm"

    def _specs(self) -> Sequence[ZygoteSpec]:
        return base_specs(self.runtimes, standbys=self.settings.stem_cells)

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        known = super().explain(name, now_s)
        return known | {"stem_cells": self.settings.stem_cells} if known else {}
