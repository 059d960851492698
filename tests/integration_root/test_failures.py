"""When a step of a start fails, the step and the system's error are named, and nothing stays."""

import os

import pytest

from runtime import protocol
from runtime.model import ZygoteId
from runtime.sandbox.sandbox import Sandbox
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

IDLE = "def main(param):\n    return param\n"


def replace(monkeypatch: pytest.MonkeyPatch, index: int, wrong: int) -> None:
    """Let every fork get another file in place of one of the sandbox's descriptors."""
    original = Sandbox.spawn_descriptors

    def spawn_descriptors(self: Sandbox) -> tuple[list[int], bool]:
        descriptors, has_cgroup = original(self)
        descriptors[index] = wrong
        return descriptors, has_cgroup

    monkeypatch.setattr(Sandbox, "spawn_descriptors", spawn_descriptors)


@pytest.mark.parametrize(
    ("index", "path", "step", "error"),
    [
        (4, "/dev/null", "setns net", "Invalid argument"),
        (5, "/dev/null", "setns mnt", "Invalid argument"),
        (4, "/proc/self/ns/mnt", "setns net", "Invalid argument"),
        (4, "/proc/self/ns/net", "setns net", "Operation not permitted"),
        (5, "/proc/self/ns/mnt", "setns mnt", "Operation not permitted"),
    ],
)
def test_a_failed_step_of_the_helper_is_named(monkeypatch, index, path, step, error):
    async def scenario(bed: Bed) -> None:
        await bed.zygote(standbys=0)
        assignment = bed.assignment(bed.write_code(IDLE))
        wrong = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        replace(monkeypatch, index, wrong)
        for _ in range(8):
            sandbox = await bed.start("base", assignment)
            died = await bed.died(sandbox)
            assert died.error == f"{step}: {error}"
            assert len(bed.told(protocol.SandboxDied, sandbox=sandbox)) == 1
            assert not bed.told(protocol.SandboxAssigned)
        assert bed.node.counters["starts_failed"] == 8
        os.close(wrong)

    in_node()(scenario)()


@in_node()
async def test_a_zygote_of_a_runtime_that_is_not_there_fails_with_words(bed: Bed):
    message = protocol.EnsureZygote(zygote=ZygoteId("other"), runtime="python3.99")
    bed.node.handle(message, [])
    (failed,) = await bed.until(lambda: bed.told(protocol.ZygoteFailed))
    assert failed.phase == "rootfs" and "python3.99" in failed.message


@in_node()
async def test_a_zygote_of_an_environment_that_is_not_there_fails_with_words(bed: Bed):
    message = protocol.EnsureZygote(zygote=ZygoteId("other"), runtime=bed.runtime, environments=("0" * 64,))
    bed.node.handle(message, [])
    (failed,) = await bed.until(lambda: bed.told(protocol.ZygoteFailed))
    assert failed.phase == "rootfs" and "deploy" in failed.message


@in_node(zygotes_max=1)
async def test_more_zygotes_than_uid_ranges_are_refused(bed: Bed):
    await bed.zygote()
    failed = await bed.try_zygote("second")
    assert isinstance(failed, protocol.ZygoteFailed) and "zygotes_max" in failed.message


@in_node(zygote_memory_bytes=24 << 20)
async def test_a_zygote_that_needs_too_much_memory_fails_with_words(bed: Bed):
    package = bed.write_environment({("big", "1"): {"big.py": "kept = bytearray(100 << 20)\n"}})
    failed = await bed.try_zygote("big", [package])
    assert isinstance(failed, protocol.ZygoteFailed), failed
    assert failed.phase == "imports"


@in_node()
async def test_an_import_that_ends_the_zygote_is_reported(bed: Bed):
    package = bed.write_environment({("bad", "1"): {"bad.py": "import os\nos._exit(3)\n"}})
    failed = await bed.try_zygote("bad", [package])
    assert isinstance(failed, protocol.ZygoteFailed)
    assert (failed.phase, failed.message) == ("imports", "the zygote ended while importing bad")
    assert bed.node._zygotes == {}
    await bed.zygote("good")
