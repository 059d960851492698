"""Limits and control groups with the real kernel, on whichever back end this machine has."""

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from runtime import protocol
from runtime.frames import FrameKind
from runtime.model import MIB, Limits
from runtime.sandbox.cgroup import CgroupTree
from tests.node_bed import Bed, in_node
from tests.slowness import patience_s

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

IDLE = "def main(param):\n    return param\n"


def value(bed: Bed, sandbox, v2: str, controller: str, v1: str) -> str:
    paths = bed.paths(sandbox)
    file = paths[controller] / v1 if controller in paths else paths["unified"] / v2
    return file.read_text().strip()


@in_node()
async def test_limits_of_a_function_are_in_the_kernel(bed: Bed):
    await bed.zygote()
    limits = Limits(memory_bytes=96 * MIB, pids=9, cpu_millis=250)
    assert await bed.result(IDLE, 1, limits=limits) == 1
    assert value(bed, bed.last, "memory.max", "memory", "memory.limit_in_bytes") == str(96 * MIB)
    assert value(bed, bed.last, "pids.max", "pids", "pids.max") == "9"
    cpu = value(bed, bed.last, "cpu.max", "cpu", "cpu.cfs_quota_us")
    assert cpu.split()[0] == "25000"
    is_v1 = "cpu" in bed.paths(bed.last)
    assert value(bed, bed.last, "cpu.weight", "cpu", "cpu.shares") == ("256" if is_v1 else "25")


@in_node()
async def test_swap_is_off(bed: Bed):
    await bed.zygote()
    assert await bed.result(IDLE, 1) == 1
    paths = bed.paths(bed.last)
    sandbox = paths["memory"] if "memory" in paths else paths["unified"]
    for here in (sandbox, sandbox.parent / "zygote"):
        if "memory" in paths:
            assert (here / "memory.swappiness").read_text().strip() == "0"
            memsw = here / "memory.memsw.limit_in_bytes"
            assert not memsw.exists() or memsw.read_text() == (here / "memory.limit_in_bytes").read_text()
        else:
            assert not (here / "memory.swap.max").exists() or (here / "memory.swap.max").read_text().strip() == "0"


@in_node()
async def test_sandboxes_zygotes_and_their_helpers_die_before_pagurusd(bed: Bed):
    await bed.zygote()
    assert await bed.result(IDLE, 1) == 1
    zygote = {name: path.parent / "zygote" for name, path in bed.paths(bed.last).items()}
    pids = {int(pid) for path in zygote.values() for pid in (path / "cgroup.procs").read_text().split()}
    assert len(pids) >= 3, "init, builder, zygote"
    scores = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (*pids, bed.pid(bed.last))}
    assert set(scores.values()) == {500}
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 500


OPEN_FILES = """
import os, resource

def main(param):
    made = []
    try:
        while len(made) < 20000:
            made.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        found = error.errno
    for fd in made:
        os.close(fd)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (param, param))
        raised = True
    except (ValueError, OSError):
        raised = False
    return [max(made) + 1, found, raised, list(resource.getrlimit(resource.RLIMIT_NOFILE))]
"""


@in_node()
async def test_open_files_are_limited_for_each_function_and_it_cannot_raise_that(bed: Bed):
    await bed.zygote()
    for limits in (Limits(), Limits(open_files=80), Limits(open_files=4096)):
        wanted = limits.open_files
        found = await bed.result(OPEN_FILES, wanted + 1, limits=limits)
        assert found == [wanted, errno.EMFILE, False, [wanted, wanted]]


FILL = """
import os, errno

def fill(directory):
    files = size = 0
    try:
        while files < 100_000:
            with open(f"{directory}/f{files}", "w"):
                pass
            files += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    for number in range(files):
        os.unlink(f"{directory}/f{number}")
    with open(f"{directory}/big", "wb", buffering=0) as file:
        try:
            while size < 1 << 30:
                size += file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    os.unlink(f"{directory}/big")
    return [files, size]

def main(param):
    return {directory: fill(directory) for directory in ("/tmp", "/dev/shm")}
"""


@in_node()
async def test_size_and_inodes_of_tmp_and_shm_are_bounded(bed: Bed):
    await bed.zygote()
    shm = [64 * MIB // 4096 - 1, 64 * MIB]  # the folder itself takes an inode
    assert await bed.result(FILL, limits=Limits(tmp_bytes=2 * MIB)) == {"/tmp": [511, 2 * MIB], "/dev/shm": shm}
    assert await bed.result(FILL) == {"/tmp": shm, "/dev/shm": shm}


@in_node()
async def test_no_tmp_is_next_to_nothing_and_not_without_limit(bed: Bed):
    await bed.zygote()
    found = await bed.result(FILL, limits=Limits(tmp_bytes=0))
    assert found["/tmp"] == [63, 4096]


@in_node()
async def test_every_process_of_a_sandbox_is_in_its_cgroup_of_every_hierarchy(bed: Bed):
    await bed.zygote()
    source = "import os, time\n\ndef main(param):\n    if os.fork() == 0:\n        time.sleep(1000)\n    return 1\n"
    await bed.result(source)
    for name, path in bed.paths(bed.last).items():
        pids = (path / "cgroup.procs").read_text().split()
        assert len(pids) == 2 and str(bed.pid(bed.last)) in pids, name
        run = f"{bed.parts.settings.cgroup_parent}/{bed.parts.node}/{bed.parts.run}/base-"
        assert run in str(path) and path.name == bed.last.split(".")[1]


@in_node()
async def test_too_much_memory_ends_the_sandbox_and_is_reported_as_that(bed: Bed):
    await bed.zygote()
    source = "def main(param):\n    return len(bytearray(param))\n"
    assert await bed.result(source, 8 * MIB, limits=Limits(memory_bytes=64 * MIB)) == 8 * MIB
    with pytest.raises(EOFError):
        await bed.call(bed.last, 200 * MIB)
    died = await bed.died(bed.last)
    assert died.out_of_memory and died.signal == signal.SIGKILL and not died.reason


@in_node()
async def test_files_in_tmp_count_as_memory(bed: Bed):
    await bed.zygote()
    source = "def main(param):\n    with open('/tmp/x', 'wb') as f:\n        f.write(bytes(param))\n    return 1\n"
    limits = Limits(memory_bytes=48 * MIB, tmp_bytes=512 * MIB)
    with pytest.raises(EOFError):
        await bed.run(source, 120 * MIB, limits=limits)
    assert (await bed.died(bed.last)).out_of_memory


@in_node()
async def test_a_fork_bomb_meets_the_limit_and_dies_with_its_sandbox(bed: Bed):
    await bed.zygote()
    source = """
import os, time

def main(param):
    made = 0
    while True:
        try:
            pid = os.fork()
        except BlockingIOError:
            return made
        if pid == 0:
            time.sleep(1000)
        made += 1
"""
    assert await bed.result(source, limits=Limits(pids=12)) == 11
    await bed.end(bed.last)


@in_node()
async def test_a_frozen_sandbox_answers_when_it_is_thawed(bed: Bed):
    await bed.zygote()
    assert await bed.result(IDLE, 1) == 1
    bed.node.handle(protocol.FreezeSandbox(sandbox=bed.last, frozen=True), [])
    await bed.until(lambda: is_frozen(bed, bed.last))
    bed.request(bed.last, 2)
    with pytest.raises(BlockingIOError):
        bed.sockets[bed.last].recv(1)
    assert bed.node.status(1).sandboxes[0].frozen or len(bed.node.status(1).sandboxes) > 1
    bed.node.handle(protocol.FreezeSandbox(sandbox=bed.last, frozen=False), [])
    answer = await bed.answer(bed.last)
    assert (answer.kind, answer.value) == (FrameKind.RESULT, 2)


@in_node()
async def test_a_frozen_sandbox_can_be_killed(bed: Bed):
    await bed.zygote()
    assert await bed.result(IDLE, 1) == 1
    bed.node.handle(protocol.FreezeSandbox(sandbox=bed.last, frozen=True), [])
    await bed.until(lambda: is_frozen(bed, bed.last))
    assert (await bed.end(bed.last)).signal == signal.SIGKILL


def is_frozen(bed: Bed, sandbox) -> bool:
    paths = bed.paths(sandbox)
    if "unified" in paths:
        return "frozen 1" in (paths["unified"] / "cgroup.events").read_text()
    return (paths["freezer"] / "freezer.state").read_text().strip() == "FROZEN"


@in_node()
async def test_memory_and_its_kills_are_counted(bed: Bed):
    await bed.zygote()
    source = "kept = []\n\ndef main(param):\n    kept.append(bytearray(b'x') * param)\n    return 1\n"
    assert await bed.result(source, 1) == 1
    cgroup = bed.node._sandboxes[bed.last].cgroup
    before = cgroup.memory_bytes()
    await bed.call(bed.last, 20 * MIB)
    assert cgroup.memory_bytes() >= before + 19 * MIB
    assert cgroup.oom_kills() == 0


@in_node()
async def test_what_an_earlier_run_left_is_found_deepest_first_and_can_be_removed(bed: Bed):
    node = bed.parts.node
    former = CgroupTree.detect(bed.parts.settings.cgroup_parent, node=node, run="former")
    former.create("z").enable_children()
    leaf = former.create("z/1")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        leaf.join_self()
        os.write(writer, b"x")
        signal.pause()
    os.close(writer)
    # Only then is it in all hierarchies: where it is killed is not the one that `processes` reads.
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    assert leaf.processes() == {pid}
    found = list(bed.parts.cgroups.leftovers())
    depths = [len(cgroup.paths[0].parts) for cgroup in found]
    assert depths == sorted(depths, reverse=True) and len(found) == 3
    assert all(bed.parts.run not in str(path) for cgroup in found for path in cgroup.paths)
    for cgroup in found:
        cgroup.kill()
    ended = await bed.parts.reaper.wait(pid)
    assert ended.signal == signal.SIGKILL
    async with asyncio.timeout(patience_s(5)):
        for cgroup in found:
            while not cgroup.try_remove():
                await asyncio.sleep(0.005)
    assert list(bed.parts.cgroups.leftovers()) == []


def test_our_own_controllers_are_where_mountinfo_says():
    tree = CgroupTree.detect("pagurus-test-look", node="look", run="now")
    try:
        cgroup = tree.create("x")
        assert all(Path(path).is_dir() for path in cgroup.paths)
        assert tree.kind in ("v2", "v1+v2", "v1")
        cgroup.set_limits(Limits(memory_bytes=32 * MIB))
        cgroup.set_limits(Limits(memory_bytes=512 * MIB))
        cgroup.set_limits(Limits(memory_bytes=16 * MIB))
        assert cgroup.try_remove()
    finally:
        assert tree.try_remove()
