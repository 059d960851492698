"""Small worlds with round figures, for tests of the simulator."""

from gateway.scheduler.policies.keepalive import KeepAlive
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.pool import Limits
from gateway.scheduler.sources import Mechanism
from gateway.simulate.costs import Costs
from gateway.simulate.node import Node
from gateway.simulate.profile import FORMAT, FunctionProfile, Profile, RuntimeProfile
from gateway.simulate.traces import Arrival
from runtime.model import ImportCost

RUNTIME = "python3.11"
MB = 1_000_000


def runtime(**changes):
    figures = {
        "zygote_start_ms": 100.0,
        "zygote_memory_bytes": 8 * MB,
        "standby_ms": 15.0,
        "standby_memory_bytes": 1 * MB,
        "assign_ms": 1.0,
        "fork_ms": 3.0,
        "unpooled_fork_ms": 4.0,
        "warm_ms": 0.0,
        "process_ms": 20.0,
        "process_memory_bytes": 5 * MB,
        "helper_memory_bytes": 2 * MB,
    }
    return RuntimeProfile(**{**figures, **changes})


def function(**changes):
    """Without packages, unless they are given."""
    figures = {"runtime": RUNTIME, "helped_import_ms": 0.0, "cold_memory_bytes": 2 * MB, "helped_memory_bytes": 2 * MB}
    return FunctionProfile(**{**figures, **changes})


BARE = function()
REQUESTS = function(
    distributions={"requests": "2.25.1", "urllib3": "1.26.5"},
    imports=("requests",),
    modules={"requests": ("requests",), "urllib3": ("urllib3",)},
    requires={"requests": ("urllib3",), "urllib3": ()},
    brought={"requests": ("requests", "urllib3"), "urllib3": ("urllib3",)},
    costs={
        "": ImportCost(1.0, 0),
        "requests": ImportCost(20.0, 3 * MB),
        "urllib3": ImportCost(30.0, 4 * MB),
    },
    helped_import_ms=2.0,
    cold_memory_bytes=10 * MB,
    helped_memory_bytes=3 * MB,
)
BOTH = function(
    distributions={"requests": "2.25.1", "urllib3": "1.26.5", "numpy": "2.1.0"},
    imports=("numpy", "requests"),
    modules={"requests": ("requests",), "urllib3": ("urllib3",), "numpy": ("numpy",)},
    requires={"requests": ("urllib3",), "urllib3": (), "numpy": ()},
    brought={"requests": ("requests", "urllib3"), "urllib3": ("urllib3",), "numpy": ("numpy",)},
    costs={
        "": ImportCost(1.0, 0),
        "requests": ImportCost(20.0, 3 * MB),
        "urllib3": ImportCost(30.0, 4 * MB),
        "numpy": ImportCost(100.0, 20 * MB),
    },
    helped_import_ms=2.0,
    cold_memory_bytes=30 * MB,
    helped_memory_bytes=3 * MB,
)
FUNCTIONS = {"bare": BARE, "requests": REQUESTS, "both": BOTH}


def profile():
    return Profile(format=FORMAT, runtimes={RUNTIME: runtime()}, functions=FUNCTIONS)


def node(policy=None, *, mechanism=Mechanism.FORK, functions=None, concurrency=10, queue=200, keep_alive_s=10.0):
    functions = functions or FUNCTIONS
    policy = policy or KeepAlive(PolicySettings(keep_alive_s=keep_alive_s), [RUNTIME])
    limits = Limits(1000, concurrency, queue, float("inf"))
    made = Node(policy, Costs({RUNTIME: runtime()}, functions, mechanism), limits, mechanism)
    made.deploy(functions[name].model(name) for name in sorted(functions))
    return made


def arrivals(*rows):
    """Of (at_s, function, service_s)."""
    return [Arrival(*row) for row in rows]
