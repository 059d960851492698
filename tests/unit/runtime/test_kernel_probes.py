import os

import pytest

from runtime import kernel_probes as kernel
from runtime.errors import RequirementError
from runtime.kernel_probes import Mount

V2_ONLY = "25 30 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 master:1 - cgroup cgroup rw,memory
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 27 0:40 / /mnt/with\\040space ro,noexec - tmpfs none rw
"""


def test_mountinfo_is_read_with_optional_fields_and_escapes():
    mounts = kernel.parse_mountinfo(HYBRID)
    assert mounts[1].point == "/sys/fs/cgroup/memory"
    assert {"rw", "memory"} <= mounts[1].options
    assert mounts[-1] == Mount("/", "/mnt/with space", "tmpfs", frozenset({"ro", "noexec", "rw"}))


def test_lines_that_are_none_are_passed_over():
    assert kernel.parse_mountinfo("garbage\n\n1 2 3 - x\n") == ()


def test_mount_of_takes_the_longest_and_last():
    mounts = (
        Mount("/", "/", "ext4", frozenset()),
        Mount("/", "/var", "xfs", frozenset()),
        Mount("/", "/var", "btrfs", frozenset()),
    )
    assert kernel.mount_of("/var/lib", mounts).fstype == "btrfs"
    assert kernel.mount_of("/various", mounts).fstype == "ext4"
    with pytest.raises(RequirementError):
        kernel.mount_of("/var", ())


def test_version_2_is_taken_when_it_has_all_controllers():
    mounts = kernel.parse_mountinfo(V2_ONLY)
    found, words = kernel.describe_cgroups(mounts, frozenset({"memory", "pids", "cpu", "io"}))
    assert {"memory", "pids", "cpu"} <= found
    assert words == "version 2: memory pids cpu"


def test_version_1_is_taken_when_version_2_has_no_controllers():
    found, words = kernel.describe_cgroups(kernel.parse_mountinfo(HYBRID), frozenset({"hugetlb"}))
    assert found == {"memory", "pids", "cpu"}
    assert words == "version 1: cpu memory pids, with a version 2 hierarchy beside"


def test_no_cgroups_at_all_is_said():
    assert kernel.describe_cgroups((), frozenset()) == (frozenset(), "no cgroups mounted")
    assert kernel.describe_cgroups(kernel.parse_mountinfo(V2_ONLY), frozenset({"memory"}))[1] == "version 2"


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-18-amd64", (6, 1)), ("5.14", (5, 14)), ("6.18.44-fc-v669", (6, 18))]
)
def test_releases(release, version):
    assert kernel.parse_release(release) == version


def test_an_unreadable_release_is_said():
    with pytest.raises(RequirementError, match="unknown"):
        kernel.parse_release("unknown")


def test_a_child_answers_and_is_reaped():
    assert kernel.in_child(lambda: str(os.getppid())) == str(os.getpid())
    pid = int(kernel.in_child(lambda: str(os.getpid())))
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_a_childs_error_comes_back():
    with pytest.raises(RequirementError, match="division"):
        kernel.in_child(lambda: str(1 // 0))


def test_a_child_that_dies_is_told():
    with pytest.raises(RequirementError, match="died"):
        kernel.in_child(lambda: os._exit(3))


def test_a_child_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(kernel, "CHILD_TIMEOUT_S", 0.01)
    read_fd, write_fd = os.pipe()
    with pytest.raises(RequirementError, match="timed out"):
        kernel.in_child(lambda: os.read(read_fd, 1).decode())
    os.close(read_fd)
    os.close(write_fd)
