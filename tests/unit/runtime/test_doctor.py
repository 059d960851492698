import glob
import os
from pathlib import Path

import pytest

from runtime import doctor
from runtime.config import Settings
from runtime.errors import RequirementError
from runtime.protocol import Check


def probe(find, **more):
    return doctor.Probe("subject", find, "what is lost", "how to get it", **more)


def test_a_passed_check_says_what_it_found_and_nothing_else():
    assert doctor.check(probe(lambda s: "fine"), Settings()) == Check(
        name="subject", ok=True, required=True, found="fine"
    )


def test_a_failed_check_names_loss_and_way_out():
    def find(settings):
        raise RequirementError("not there")

    assert doctor.check(probe(find, required=False), Settings()) == Check(
        name="subject", ok=False, required=False, found="not there", lost="what is lost", fix="how to get it"
    )


def test_the_hint_of_the_failure_is_the_better_way_out():
    def find(settings):
        raise RequirementError("not there", hint="look here")

    assert doctor.check(probe(find), Settings()).fix == "look here"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(1, "Operation not permitted", "/there"), "Operation not permitted (/there)"),
        (ValueError("odd text"), "odd text"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_exception_inside_a_check_is_what_it_found(error, found):
    def find(settings):
        raise error

    assert doctor.check(probe(find), Settings()).found == found


def test_names_are_unique():
    names = [probe.name for probe in doctor.probes(Settings())]
    assert len(names) == len(set(names))


def test_every_probe_says_what_is_lost_and_how_to_get_it():
    for entry in doctor.probes(Settings()):
        assert entry.lost and entry.fix, entry.name


def alive():
    parent = str(os.getpid())
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == parent:
            found.add(stat.parent.name)
    return found


def left_over():
    # not Path.glob: other cgroups may come and go while it looks
    cgroups = glob.glob("/sys/fs/cgroup/**/pagurus-doctor-*", recursive=True)
    mounts = Path("/proc/self/mountinfo").read_text()
    namespaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    return len(os.listdir("/proc/self/fd")), alive(), mounts, namespaces, cgroups


def test_the_real_checks_never_raise_and_leave_nothing(tmp_path):
    settings = Settings(state_dir=str(tmp_path / "state"), run_dir=str(tmp_path / "run"), listen="127.0.0.1:0")
    before = left_over()
    checks = {check.name: check for check in doctor.run_checks(settings)}
    assert left_over() == before
    assert not list(tmp_path.iterdir())
    assert not checks["base rootfs"].ok
    if os.geteuid() == 0:
        kernel = ("root", "kernel", "namespaces", "pidfd", "seccomp", "overlay", "cgroup controllers")
        assert [checks[name].found for name in kernel if not checks[name].ok] == []
