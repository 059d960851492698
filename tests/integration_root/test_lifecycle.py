"""How sandboxes and zygotes live and end, in every order."""

import asyncio
import os
import random
import signal

import pytest

from runtime import protocol
from runtime.frames import FrameKind
from runtime.model import ZygoteId
from runtime.sandbox.sandbox import State
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO = """
import os
calls = 0

def main(param):
    global calls
    calls += 1
    return {"param": param, "calls": calls, "colour": os.environ.get("COLOUR")}
"""
SLEEP = "import time\n\ndef main(param):\n    time.sleep(1000)\n"


@in_node()
async def test_a_standby_is_assigned_called_and_killed(bed: Bed):
    await bed.zygote()
    assert await bed.result(ECHO, [1], environ={"COLOUR": "blue"}) == {"param": [1], "calls": 1, "colour": "blue"}
    again = await bed.call(bed.last, [2])
    assert (again.value["calls"], again.import_us) == (2, 0)
    assigned = bed.told(protocol.SandboxAssigned, sandbox=bed.last)
    assert set(assigned[0].phases_ms) == {"assign"}
    died = await bed.end(bed.last)
    assert (died.signal, died.reason, died.error, died.out_of_memory) == (signal.SIGKILL, "test", "", False)


@in_node()
async def test_a_fork_now_takes_the_request_before_it_runs(bed: Bed):
    await bed.zygote(standbys=0)
    sandbox = await bed.start("base", bed.assignment(bed.write_code(ECHO)))
    bed.request(sandbox, "early")
    answer = await bed.answer(sandbox)
    assert answer.value == {"param": "early", "calls": 1, "colour": None}
    assigned = await bed.until(lambda: bed.told(protocol.SandboxAssigned, sandbox=sandbox))
    assert {"plan", "fork", "isolate"} <= set(assigned[0].phases_ms)
    offered = bed.told(protocol.SandboxOffered, sandbox=sandbox)
    assert [one.state for one in offered] == ["starting"]


@in_node(shells_per_zygote=0)
async def test_a_start_that_finds_no_namespaces_ready_makes_them_and_is_counted(bed: Bed):
    await bed.zygote(standbys=0)
    for number in (1, 2):
        sandbox = await bed.start("base", bed.assignment(bed.write_code(ECHO)))
        assert (await bed.call(sandbox, number)).value["param"] == number
        assert (bed.node.counters["forked"], bed.node.counters["shells_missed"]) == (number, number)


@in_node()
async def test_a_start_without_a_zygote_is_refused_at_once(bed: Bed):
    assignment = bed.assignment(bed.write_code(ECHO))
    bed.node.handle(protocol.StartSandbox(ticket=7, zygote=ZygoteId("none"), assignment=assignment), [])
    (refused,) = await bed.until(lambda: bed.told(protocol.SandboxRefused, ticket=7))
    assert refused.phase == "fork" and "none" in refused.message


@in_node()
async def test_a_start_of_code_that_is_gone_is_reported_once_as_never_ready(bed: Bed):
    await bed.zygote(standbys=0)
    code = bed.write_code(ECHO)
    assignment = bed.assignment(code)
    bed.parts.layers.discard("code", code)
    sandbox = await bed.start("base", assignment)
    died = await bed.died(sandbox)
    assert code[:12] in died.error
    assert len(bed.told(protocol.SandboxDied, sandbox=sandbox)) == 1


@in_node()
async def test_kill_while_starting_ends_everything_and_is_told_once(bed: Bed):
    await bed.zygote(standbys=0)
    assignment = bed.assignment(bed.write_code(ECHO))
    for turns in range(0, 24):
        sandbox = await bed.start("base", assignment)
        for _ in range(turns):
            await asyncio.sleep(0)
        bed.kill(sandbox)
        died = await bed.died(sandbox)
        assert died.reason == "test"
        await asyncio.sleep(0.002)
        assert len(bed.told(protocol.SandboxDied, sandbox=sandbox)) == 1
    assert bed.node.status(1).sandboxes == ()


@in_node()
async def test_helpers_outlive_a_dropped_zygote_and_standbys_do_not(bed: Bed):
    await bed.zygote(standbys=2)
    await bed.result(ECHO, 1)
    helper, standby = bed.last, await bed.parked()
    bed.node.handle(protocol.DropZygote(zygote=ZygoteId("base")), [])
    await bed.until(lambda: bed.told(protocol.ZygoteDied, zygote="base"))
    assert (await bed.died(standby)).reason == "its zygote ended"
    assert (await bed.call(helper, 2)).value["calls"] == 2
    assert bed.node._zygotes == {}
    await bed.end(helper)
    await bed.until(lambda: bed.node.is_empty)


@in_node()
async def test_helpers_outlive_a_killed_zygote_and_a_new_one_takes_its_place(bed: Bed):
    await bed.zygote(standbys=1)
    await bed.result(ECHO, 1)
    helper = bed.last
    os.kill(bed.node._zygotes[ZygoteId("base")].pid, signal.SIGKILL)
    (died,) = await bed.until(lambda: bed.told(protocol.ZygoteDied, zygote="base"))
    assert "SIGKILL" in died.reason or "ended" in died.reason
    assert (await bed.call(helper, 2)).value["calls"] == 2
    await bed.zygote("base2", standbys=1)
    assert (await bed.result(ECHO, 5))["param"] == 5


@in_node()
async def test_a_zygote_may_end_at_any_moment_of_its_refill(bed: Bed):
    chance = random.Random(7)
    for number in range(16):
        name = ZygoteId(f"z{number}")
        await bed.zygote(name, standbys=3)
        await asyncio.sleep(chance.random() * 0.04)
        if number % 2:
            bed.node.handle(protocol.DropZygote(zygote=name), [])
        else:
            os.kill(bed.node._zygotes[name].pid, signal.SIGKILL)
        await bed.until(lambda name=name: bed.told(protocol.ZygoteDied, zygote=name))
        await bed.until(lambda: bed.node.is_empty)


@in_node()
async def test_a_helper_that_kills_itself_is_reported_with_its_signal(bed: Bed):
    await bed.zygote(standbys=1)
    # pid 1 of a pid namespace gets no deadly signal from itself, except by a crash
    source = "import ctypes\n\ndef main(param):\n    ctypes.string_at(0)\n"
    with pytest.raises(EOFError):
        await bed.run(source)
    died = await bed.died(bed.last)
    assert (died.signal, died.exit_status, died.reason, died.error) == (signal.SIGSEGV, None, "", "")
    with pytest.raises(EOFError):
        await bed.run("import os\n\ndef main(param):\n    os._exit(3)\n")
    died = await bed.died(bed.last)
    assert (died.signal, died.exit_status, died.reason) == (None, 3, "")


@in_node()
async def test_a_helper_that_exits_takes_its_daemons_along(bed: Bed):
    await bed.zygote()
    source = """
import os, time

def main(param):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
    os._exit(0)
"""
    with pytest.raises(EOFError):
        await bed.run(source)
    died = await bed.died(bed.last)
    assert died.exit_status == 0
    await bed.until(lambda: not bed.node._graves)


@in_node()
async def test_assigning_twice_or_a_dead_sandbox_does_nothing(bed: Bed):
    await bed.zygote()
    assignment = bed.assignment(bed.write_code(ECHO))
    sandbox = await bed.parked()
    bed.assign(sandbox, assignment)
    bed.assign(sandbox, assignment)
    assert (await bed.call(sandbox, 1)).value["calls"] == 1
    assert len(bed.told(protocol.SandboxAssigned, sandbox=sandbox)) == 1
    await bed.end(sandbox)
    bed.assign(sandbox, assignment)
    bed.kill(sandbox)
    bed.node.handle(protocol.FreezeSandbox(sandbox=sandbox, frozen=True), [])
    await asyncio.sleep(0)
    assert len(bed.told(protocol.SandboxDied, sandbox=sandbox)) == 1


@in_node()
async def test_a_new_gateway_is_offered_all_that_lives(bed: Bed):
    await bed.zygote(standbys=1)
    await bed.result(ECHO, 1)
    helper = bed.last
    await bed.until(lambda: bed.standbys.get(None))
    bed.received.clear()
    bed.node.offer_all()
    assert [one.zygote for one in bed.told(protocol.ZygoteReady)] == ["base"]
    offered = {one.sandbox: one for one in bed.told(protocol.SandboxOffered)}
    assert offered[helper].state == "assigned" and offered[helper].assignment.function == "test"
    assert sorted(one.state for one in offered.values()) == ["assigned", "standby"]
    assert (await bed.call(helper, 2)).value["calls"] == 2, "over the socket that was offered again"


@in_node()
async def test_the_end_of_the_node_ends_what_runs(bed: Bed):
    await bed.zygote(standbys=2)
    sandbox = await bed.parked()
    bed.assign(sandbox, bed.assignment(bed.write_code(SLEEP)))
    bed.request(sandbox)
    await bed.until(lambda: bed.state(sandbox) is State.ASSIGNED)
    # open_bed ends the node and looks for what is left


@in_node()
async def test_a_zygote_may_be_dropped_at_any_moment_of_its_start(bed: Bed):
    ends = (protocol.ZygoteFailed, protocol.ZygoteDied)
    for number in range(14):
        name = ZygoteId(f"z{number}")
        bed.node.handle(protocol.EnsureZygote(zygote=name, runtime=bed.runtime), [])
        await asyncio.sleep(number * 0.006)
        bed.node.handle(protocol.DropZygote(zygote=name), [])
        await bed.until(lambda name=name: [m for m in bed.received if isinstance(m, ends) and m.zygote == name])
        await bed.until(lambda: bed.node.is_empty)
    assert bed.parts.ranges._used == set()


@in_node()
async def test_the_end_of_the_node_ends_a_zygote_that_boots(bed: Bed):
    message = protocol.EnsureZygote(zygote=ZygoteId("base"), runtime=bed.runtime)
    bed.node.handle(message, [])
    await asyncio.sleep(0.03)


LIBRARIES = {
    ("alpha", "1.0"): {
        "alpha/__init__.py": "import sys\nvalue = object()\nseen = id(value)\nfrom . import part\n",
        "alpha/part.py": "word = 'alpha part'\n",
    },
    ("beta", "2.0"): {"beta.py": "word = 'beta'\n"},
    ("gamma", "3.0"): {"gamma.py": "word = 'gamma'\n"},
}
IMPORTS = """
import importlib, os, sys

def main(param):
    found = {}
    already = [name for name in param if name in sys.modules]
    for name in param:
        try:
            module = importlib.import_module(name)
            found[name] = module.__file__
        except ImportError as error:
            found[name] = "ImportError"
    return {"found": found, "already": already, "disk": sorted(os.listdir("/opt/env")),
            "alpha": sys.modules["alpha"].seen if "alpha" in sys.modules else None}
"""


@in_node()
async def test_a_union_zygote_shows_each_function_its_own_environment_only(bed: Bed):
    one = bed.write_environment({key: LIBRARIES[key] for key in [("alpha", "1.0"), ("beta", "2.0")]})
    two = bed.write_environment({key: LIBRARIES[key] for key in [("beta", "2.0"), ("gamma", "3.0")]})
    ready = await bed.zygote("union", [one, two], standbys=2)
    assert set(ready.import_ms) == {"alpha", "beta", "gamma"} and not ready.failed
    seen = {}
    for environment in (one, two):
        sandbox = await bed.parked(environment.id)
        code = bed.write_code(IMPORTS)
        bed.assign(sandbox, bed.assignment(code, environment=environment.id))
        answer = await bed.call(sandbox, ["alpha", "alpha.part", "beta", "gamma"])
        assert answer.kind is FrameKind.RESULT, answer.value
        seen[environment.id] = answer.value
    first, second = seen[one.id], seen[two.id]
    assert first["already"] == ["alpha", "alpha.part", "beta"], "declared ones are those of the zygote's memory"
    assert second["already"] == ["beta", "gamma"]
    assert first["found"]["gamma"] == "ImportError" and second["found"]["alpha"] == "ImportError"
    assert second["found"]["alpha.part"] == "ImportError"
    assert first["found"]["alpha"] == "/opt/env/alpha/__init__.py"
    assert [name for name in first["disk"] if "gamma" in name] == []
    assert [name for name in second["disk"] if "alpha" in name] == []
    third = await bed.parked(one.id)
    bed.assign(third, bed.assignment(bed.write_code(IMPORTS), environment=one.id))
    assert (await bed.call(third, ["alpha"])).value["alpha"] == first["alpha"], "the identical object"


@in_node()
async def test_another_version_of_a_package_is_not_taken_from_the_zygote(bed: Bed):
    old = bed.write_environment({("lib", "1.0"): {"lib.py": "version = 1\n"}})
    new = bed.write_environment({("lib", "2.0"): {"lib.py": "version = 2\n"}})
    await bed.zygote("old", [old], standbys=1)
    source = "import lib\n\ndef main(param):\n    return lib.version\n"
    sandbox = await bed.start("old", bed.assignment(bed.write_code(source), environment=new.id))
    assert (await bed.call(sandbox)).value == 2
    known = await bed.start("old", bed.assignment(bed.write_code(source), environment=old.id))
    assert (await bed.call(known)).value == 1


@in_node()
async def test_a_standby_of_one_environment_refuses_another(bed: Bed):
    one = bed.write_environment({("lib", "1.0"): {"lib.py": ""}})
    two = bed.write_environment({("other", "1.0"): {"other.py": ""}})
    await bed.zygote("union", [one, two], standbys=1)
    sandbox = await bed.parked(one.id)
    bed.assign(sandbox, bed.assignment(bed.write_code(ECHO), environment=two.id))
    assert "another environment" in (await bed.died(sandbox)).error


CHANCE = """
import os, random, secrets, ssl, tempfile, uuid

def main(param):
    return [random.random(), str(uuid.uuid4()), secrets.token_hex(), os.urandom(8).hex(), ssl.RAND_bytes(8).hex(),
            tempfile.mktemp(), hash(object())]
"""


@in_node()
async def test_chance_differs_between_helpers_of_one_zygote(bed: Bed):
    # all of them used before the fork, so that each has state to share
    warm = "import random, uuid, ssl, tempfile\nrandom.random(), uuid.uuid4(), ssl.RAND_bytes(8), tempfile.mktemp()\n"
    package = bed.write_environment({("warm", "1"): {"warm.py": warm}})
    await bed.zygote("warm", [package], standbys=2)
    seen = []
    for _ in range(3):
        sandbox = await bed.parked(package.id)
        bed.assign(sandbox, bed.assignment(bed.write_code(CHANCE), environment=package.id))
        answer = await bed.call(sandbox)
        assert answer.kind is FrameKind.RESULT, answer.value
        seen.append(answer.value[:6])
    for values in zip(*seen, strict=True):
        assert len(set(values)) == 3, values
