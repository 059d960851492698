"""The simulator and a real node, given the same calls, take the same decisions.

Calls come at times between which every lifetime is over by far, or not at all: what is compared is decisions, not
how fast the machine was.
"""

import json
import time
from collections import Counter

import pytest

from gateway.scheduler import policies
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.pool import Limits
from gateway.scheduler.sources import Mechanism
from gateway.simulate.costs import Costs
from gateway.simulate.node import Node
from gateway.simulate.profile import FunctionProfile, RuntimeProfile
from gateway.simulate.traces import Arrival
from runtime.model import ImportCost
from tests import leaks
from tests.index import Index
from tests.node_bed import state_directory
from tests.pagurusd import Daemon
from tests.wheels import packed

KEEP_ALIVE_S = 1.5
# A package that takes long enough to import for policies to care, and memory, too.
SLOW = "import time\ntime.sleep(0.05)\nHELD = bytearray(6_000_000)\nVALUE = 1\n"
FILES = packed("dep", "1.0", {"dep.py": SLOW}) | packed("other", "1.0", {"other.py": SLOW})
SOURCES = {
    "plain": {"main.py": "def main(p):\n    return 1\n"},
    "uses": {"main.py": "import dep\n\ndef main(p):\n    return dep.VALUE\n", "requirements.txt": "dep"},
    "both": {"main.py": "import dep, other\n\ndef main(p):\n    return 2\n", "requirements.txt": "dep\nother"},
}
CALLS = [
    *((0.0, "plain"), (0.3, "plain"), (0.6, "uses"), (0.9, "uses"), (1.2, "both")),
    *((4.2, "plain"), (4.5, "uses"), (4.8, "both"), (5.1, "both"), (5.4, "uses")),
]
COST = ImportCost(50.0, 6_000_000)


def profile(*packages: str) -> FunctionProfile:
    return FunctionProfile(
        runtime="python3.11",
        distributions=dict.fromkeys(packages, "1.0"),
        imports=packages,
        modules={name: (name,) for name in packages},
        brought={name: (name,) for name in packages},
        costs={name: COST for name in packages} | {"": ImportCost(0.2, 0)},
        helped_import_ms=0.2,
        cold_memory_bytes=2_000_000 + 6_000_000 * len(packages),
        helped_memory_bytes=2_000_000,
    )


RUNTIME = RuntimeProfile(
    zygote_start_ms=90.0,
    zygote_memory_bytes=8_000_000,
    standby_ms=5.0,
    standby_memory_bytes=1_000_000,
    assign_ms=1.0,
    fork_ms=3.0,
    unpooled_fork_ms=6.0,
    warm_ms=0.2,
    process_ms=20.0,
    process_memory_bytes=8_000_000,
    helper_memory_bytes=2_000_000,
)


def simulated(policy: str, options: dict[str, float]) -> tuple[dict[str, Counter[str]], set[frozenset[str]]]:
    """Starts by function and kind, and for whom the zygotes are in the end."""
    functions = {"plain": profile(), "uses": profile("dep"), "both": profile("dep", "other")}
    settings = PolicySettings(keep_alive_s=KEEP_ALIVE_S, memory_bytes=2 << 30, **options)  # type: ignore[arg-type]
    limits = Limits(sandboxes_max=1000, function_concurrency=4, queue_per_function=10, freeze_after_s=1.0)
    made = policies.make(policy, settings, ["python3.11"])
    node = Node(made, Costs({"python3.11": RUNTIME}, functions, Mechanism.FORK), limits, Mechanism.FORK)
    node.deploy(functions[name].model(name) for name in SOURCES)
    node.run([Arrival(at_s, name, 0.001) for at_s, name in CALLS])
    starts = {
        name: Counter({kind: counts[kind] for kind in ("cold", "helped", "warm") if counts[kind]})
        for name, counts in node.tally.by_function.items()
    }
    return starts, {frozenset(spec.functions) for spec in made.plan(CALLS[-1][0]) if spec.environments}


PAPER = {"idle_first_s": 2.0, "helper_keep_alive_s": 1.5}


@pytest.mark.parametrize(("policy", "options"), [("keepalive", {}), ("adaptive", {}), ("pagurus", PAPER)])
def test_simulator_and_node_agree(policy: str, options: dict[str, float]):
    with (
        Index(FILES) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(
            scope,
            index_url=index.url,
            policy=policy,
            policy_options=json.dumps(options),
            idle_timeout_s=KEEP_ALIVE_S,
            function_concurrency=4,
        ) as daemon,
    ):
        for name, source in SOURCES.items():
            daemon.deploy(name, source)
        time.sleep(2.5)  # zygotes that follow the deploys are up
        starts: dict[str, Counter[str]] = {}
        began_s = time.monotonic()
        for at_s, name in CALLS:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            answer = daemon.invoke(name)
            assert answer.status == 200, answer.body
            starts.setdefault(name, Counter())[answer.headers["X-Pagurus-Start-Kind"]] += 1
        zygotes = daemon.get("/v1/zygotes")["zygotes"]
        helped = {frozenset(one["functions"]) for one in zygotes if one["environments"] and one["state"] == "ready"}
    expected, planned = simulated(policy, options)
    assert starts == expected
    if policy != "pagurus":  # whose directory changes from period to period, and says less than its zygotes can
        assert helped == planned
