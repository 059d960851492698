import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from runtime import config
from runtime.errors import StartError
from runtime.netns import egress as module
from runtime.netns.egress import Egress
from runtime.netns.host import Host
from runtime.netns.ports import Port

INTERNET, NARROW = ("internet",), ("10.0.0.0/8:80",)


class FakePorts:
    def __init__(self, prefix: str, subnet: IPv4Network, *, mtu: int, forward: bool) -> None:
        self.made: list[int] = []
        self.forward = forward
        self.failure: OSError | None = None

    def __len__(self) -> int:
        return len(self.made)

    def attach(self, namespace: int, group: int) -> Port:
        if self.failure is not None:
            raise self.failure
        self.made.append(group)
        return Port(1, "pg-1", 5, IPv4Address("10.201.0.1"))

    def cut(self, port: Port) -> None:
        self.made.pop()

    def close(self) -> None:
        pass


class World:
    """A host that is only imagined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwarding = {"eth0": False, "eth1": True}
        self.as_a_whole = False
        self.left: list[str] | None = None
        self.scripts: list[str] = []
        self.taken: tuple[tuple[IPv4Network, str], ...] = ()
        self.failure: OSError | None = None
        host = module.host
        monkeypatch.setattr(host, "survey", lambda: Host(("eth0", "eth1"), 1500, self.taken, frozenset()))
        monkeypatch.setattr(host, "forwards", lambda: self.as_a_whole)
        monkeypatch.setattr(host, "is_forwarding", self.forwarding.__getitem__)
        monkeypatch.setattr(host, "set_forwarding", self._set)
        monkeypatch.setattr(host, "resolv_confs", lambda: ["nameserver 10.0.0.53\n"])
        monkeypatch.setattr(module.nft, "uplinks", lambda table: self.left)
        monkeypatch.setattr(module.nft, "run", lambda script, *options: self.scripts.append(" ".join(options) + script))
        monkeypatch.setattr(module.ports, "probe", lambda: None)
        monkeypatch.setattr(module, "Ports", FakePorts)

    def _set(self, name: str, *, on: bool) -> None:
        self.forwarding[name] = on

    async def run(self, script: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.scripts.append(script)
        assert "table inet pagurus_n12345678 {" not in script or not self.forwarding["eth0"] or "chain policy" in script

    def egress(self, **settings: object) -> Egress:
        return Egress(config.load(None, {}, settings), "n12345678", self.run)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def prepared(egress: Egress, *wanted: tuple[str, ...]) -> Egress:
    async def prepare() -> None:
        for one in wanted:
            await egress.prepare(one)

    asyncio.run(prepare())
    return egress


def test_a_check_changes_nothing_where_no_table_is_left(world: World):
    egress = world.egress()
    assert egress.check() == ""
    assert [script[:2] for script in world.scripts] == ["-c"]
    assert world.forwarding == {"eth0": False, "eth1": True}


def test_no_egress_is_always_ready_and_nothing_else_is_before_it_is_prepared(world: World):
    egress = world.egress()
    assert egress.is_ready(()) and not egress.is_ready(INTERNET)
    with pytest.raises(StartError, match="no rules are loaded"):
        egress.attach(3, INTERNET)


def test_rules_come_before_forwarding_and_both_go(world: World):
    egress = prepared(world.egress(), INTERNET, NARROW, INTERNET)
    assert len(world.scripts) == 3 and egress.is_ready(NARROW)
    assert world.forwarding == {"eth0": True, "eth1": True}
    assert egress.resolvers == ("10.0.0.53",)
    egress.close()
    assert world.forwarding == {"eth0": False, "eth1": True}
    assert "delete table inet pagurus_n12345678" in world.scripts[-1]
    egress.close()
    assert len(world.scripts) == 4


def test_the_rules_stay_while_a_sandbox_has_a_port(world: World):
    egress = prepared(world.egress(), INTERNET)
    egress.attach(3, INTERNET)
    egress.close()
    assert "delete table" not in world.scripts[-1]
    assert world.forwarding == {"eth0": True, "eth1": True}


def test_what_an_earlier_run_made_forward_is_still_ours(world: World):
    world.left, world.forwarding["eth0"] = ["eth0"], True
    egress = world.egress()
    assert egress.check() == ""
    assert '"eth0"' in world.scripts[-1] and '"eth1"' not in world.scripts[-1]
    egress.close()
    assert world.forwarding == {"eth0": False, "eth1": True}


def test_a_host_that_forwards_is_left_so(world: World):
    world.as_a_whole = True
    egress = prepared(world.egress(), INTERNET)
    assert '"eth0"' not in world.scripts[0]
    egress.close()
    assert world.forwarding == {"eth0": False, "eth1": True}


def test_ports_are_counted_and_failures_too(world: World):
    egress = prepared(world.egress(), INTERNET, NARROW)
    port = egress.attach(3, INTERNET)
    egress.attach(4, NARROW)
    assert egress._ports.made == [egress._policies[INTERNET], egress._policies[NARROW]]  # type: ignore[union-attr]
    egress.cut(port, INTERNET)
    egress._ports.failure = OSError(95, "Operation not supported")  # type: ignore[union-attr]
    with pytest.raises(StartError, match="cannot make a port: Operation not supported"):
        egress.attach(5, INTERNET)
    assert egress.counters == {
        "egress_ports_made": 2,
        "egress_ports_failed": 1,
        "egress_ports_now": 1,
        "egress_policies_now": 2,
    }


def test_a_collision_is_the_refusal_and_names_the_setting(world: World):
    world.taken = ((IPv4Network("10.201.5.0/24"), "eth0"),)
    egress = world.egress()
    assert egress.check().startswith("egress_subnet 10.201.0.0/16 collides with the host's 10.201.5.0/24 of eth0")
    prepared(egress, INTERNET)
    with pytest.raises(StartError, match="egress_subnet"):
        egress.attach(3, INTERNET)


def test_an_empty_subnet_lets_no_function_have_egress(world: World):
    assert world.egress(egress_subnet="").check() == "the setting egress_subnet is empty"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda: OSError("nft failed: no"), "nft failed: no"),
        (lambda: FileNotFoundError(2, "No such file"), "No such file"),
    ],
)
def test_a_machine_without_nftables_is_told_at_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], OSError], said: str
):
    def fail(table: str) -> None:
        raise broken()

    monkeypatch.setattr(module.nft, "uplinks", fail)
    assert world.egress().check() == said


def test_a_failed_preparation_is_told_to_the_start_and_tried_again(world: World):
    world.failure = OSError("nft failed: busy")
    egress = prepared(world.egress(), INTERNET)
    with pytest.raises(StartError, match="nft failed: busy"):
        egress.attach(3, INTERNET)
    world.failure = None
    prepared(egress, INTERNET).attach(3, INTERNET)


def test_policies_without_a_port_go_when_there_are_too_many(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "POLICIES_MAX", 2)
    egress = prepared(world.egress(), INTERNET)
    egress.attach(3, INTERNET)
    prepared(egress, NARROW)
    third = ("10.0.0.0/8:81",)
    prepared(egress, third)
    assert egress.is_ready(INTERNET) and egress.is_ready(third) and not egress.is_ready(NARROW)
    assert "delete chain" in world.scripts[-1]
