"""The parts of a running gateway that the HTTP surface speaks to."""

import asyncio
from dataclasses import dataclass, field

from gateway.access import Access
from gateway.deploys import Deploys
from gateway.evictions import Evictions
from gateway.fleet import Fleet
from gateway.keeper import Keeper
from gateway.nodes import NodeQuestions
from gateway.registry import Registry
from gateway.runtimes import Runtimes
from gateway.store.records import RecordStore
from runtime.clock import Clock
from runtime.config import Settings
from runtime.protocol import Welcome


@dataclass(slots=True)
class Services:
    """Wired by gateway.server; `stopping` is set when the node drains."""

    settings: Settings
    clock: Clock
    welcome: Welcome
    fleet: Fleet
    evictions: Evictions
    keeper: Keeper
    registry: Registry
    runtimes: Runtimes
    deploys: Deploys
    records: RecordStore
    node: NodeQuestions
    access: Access
    started_s: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
