"""Tenants: pagurusd holds the rule by what is mounted, whatever a gateway says; and who can see whose memory."""

import os
from pathlib import Path

import msgspec
import pytest

from runtime import protocol
from runtime.model import Environment, ZygoteId
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO = "def main(param):\n    return param\n"
COMMON = {("common", "1"): {"common.py": "VALUE = 1\n"}}
OWN = {("own", "1"): {"own.py": "VALUE = 2\n"}}


async def made(bed: Bed, name: str, environments: list[Environment], tenants: tuple[str, ...]) -> None:
    """A zygote of these tenants."""
    message = protocol.EnsureZygote(
        zygote=ZygoteId(name),
        runtime=bed.runtime,
        environments=tuple(one.id for one in environments),
        imports=tuple(module for one in environments for module in one.imports),
        standbys=tuple(protocol.StandbyTarget(environment=one.id, count=1) for one in environments),
        tenants=tenants,
    )
    bed.node.handle(message, [])
    ready = (await bed.until(lambda: bed.told(protocol.ZygoteReady, zygote=name)))[0]
    assert ready.tenants == tenants, "the next gateway is told whose it is"


async def lets_in(bed: Bed, zygote: str, environment: Environment, tenant: str) -> bool:
    """Whether a function comes to life from a zygote; as a standby and as a fork alike."""
    assignment = bed.assignment(bed.write_code(ECHO), environment=environment.id)
    assignment = msgspec.structs.replace(assignment, tenant=tenant)
    standby = await bed.until(
        lambda: next((one for one in bed.standbys.get(environment.id, ()) if one.startswith(f"{zygote}.")), None)
    )
    bed.standbys[environment.id].remove(standby)
    bed.assign(standby, assignment)
    found = []
    for sandbox in (standby, await bed.start(zygote, assignment)):
        how = await bed.until(
            lambda: bed.dead.get(sandbox) or bed.told(protocol.SandboxAssigned, sandbox=sandbox)  # noqa: B023
        )
        found.append(isinstance(how, list))
        if isinstance(how, list):
            assert (await bed.call(sandbox, 3)).value == 3
        else:
            assert "does not declare" in how.error, how
    assert len(set(found)) == 1
    return found[0]


@in_node(trusted_packages=["common"])
async def test_a_function_of_another_tenant_is_let_in_only_where_it_declares_all_that_the_zygote_holds(bed: Bed):
    own = bed.write_environment(OWN)
    both = bed.write_environment({**COMMON, **OWN})
    common = bed.write_environment(COMMON)
    await bed.zygote()
    innocent = await bed.parked()
    await made(bed, "red", [own, common], ("red",))
    assert await lets_in(bed, "red", own, "red")
    assert await lets_in(bed, "red", own, "blue"), "it declares own itself, and common is trusted"
    assert not await lets_in(bed, "red", common, "blue"), "own would see it"
    await made(bed, "open", [common], ("red",))
    assert await lets_in(bed, "open", common, "blue"), "all of it is trusted"
    await made(bed, "green", [both], ())
    assert await lets_in(bed, "green", both, "blue")
    bed.assign(innocent, msgspec.structs.replace(bed.assignment(bed.write_code(ECHO)), tenant="anyone"))
    assert (await bed.call(innocent, 7)).value == 7, "the base zygote is everyone's"


@in_node()
async def test_zygotes_of_different_tenants_share_no_user_namespace_and_no_uid(bed: Bed):
    environment = bed.write_environment(OWN)
    for tenant in ("red", "blue"):
        await made(bed, tenant, [environment], (tenant,))
    hosts = [bed.node._zygotes[ZygoteId(name)] for name in ("red", "blue")]
    for kind in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        assert len({os.readlink(f"/proc/{host.pid}/ns/{kind}") for host in hosts}) == 2, kind
    maps = [Path(f"/proc/{host.pid}/uid_map").read_text().split() for host in hosts]
    (first, _), (second, _) = ((int(one[1]), int(one[2])) for one in maps)
    assert abs(first - second) >= 65536 and all(int(one[2]) == 65536 for one in maps)


def memory_holds(pid: int, needles: list[bytes]) -> list[bytes]:
    """Those that a process has anywhere in its own readable memory."""
    found = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, access = line.split()[:2]
            if not access.startswith("r") or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            first, end = (int(text, 16) for text in bounds.split("-"))
            memory.seek(first)
            content = memory.read(end - first)
            found |= {needle for needle in needles if needle in content}
    return sorted(found)


@in_node()
async def test_no_secret_code_or_parameter_is_in_the_memory_of_zygote_init_builder_or_a_sibling(bed: Bed):
    environment = bed.write_environment(OWN)
    await bed.zygote("z", [environment], standbys=2)
    host = bed.node._zygotes[ZygoteId("z")]
    sibling = await bed.parked(environment.id)
    bed.assign(sibling, bed.assignment(bed.write_code(ECHO), environment=environment.id))
    assert (await bed.call(sibling, 1)).value == 1
    secret, mark, parameter = (os.urandom(16).hex() for _ in range(3))
    code = bed.write_code(
        f"import os, own\nMARK = '{mark}'\n\ndef main(param):\n    return os.environ['TOKEN'] + param\n"
    )
    assignment = bed.assignment(code, environment=environment.id, environ={"TOKEN": secret})
    standby = await bed.parked(environment.id)
    bed.assign(standby, assignment)
    forked = await bed.start("z", assignment)
    needles = [one.encode() for one in (secret, mark, parameter)]
    for sandbox in (standby, forked):
        assert (await bed.call(sandbox, parameter)).value == secret + parameter
        await bed.until(lambda: bed.pid(sandbox) > 0)  # noqa: B023  its report may come after its answer
        assert memory_holds(bed.pid(sandbox), needles[:2]) == sorted(needles[:2]), "else this test could not fail"
    later = await bed.parked(environment.id)  # forked after all that
    others = {host.pid, host._namespace.init_pid, host._namespace.builder_pid, bed.pid(sibling), bed.pid(later)}
    assert len(others) == 5 and others <= {*host._cgroup.processes(), bed.pid(sibling), bed.pid(later)}
    for pid in others:
        assert memory_holds(pid, needles) == [], Path(f"/proc/{pid}/cmdline").read_bytes()
