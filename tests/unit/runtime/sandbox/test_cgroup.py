"""Control groups on trees that are only folders: what is written, where, in which order."""

import errno
import os
from pathlib import Path
from typing import ClassVar

import pytest

from runtime.errors import RequirementError
from runtime.model import MIB, Limits
from runtime.sandbox import cgroup as module
from runtime.sandbox import cgroup_files
from runtime.sandbox.cgroup import Cgroup, CgroupTree, Hierarchies

PURE_V2 = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,memory_recursiveprot
"""
HYBRID = """\
25 18 0:21 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755
26 25 0:22 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:23 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,xattr,name=systemd
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,freezer
34 25 0:30 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,pids
"""
PURE_V1 = "".join(line for line in HYBRID.splitlines(keepends=True) if "cgroup2" not in line)


def test_pure_v2_is_read_from_mountinfo():
    assert Hierarchies.from_mountinfo(PURE_V2) == Hierarchies(Path("/sys/fs/cgroup"), {})


def test_hybrid_is_read_from_mountinfo():
    found = Hierarchies.from_mountinfo(HYBRID)
    assert found.unified == Path("/sys/fs/cgroup/unified")
    assert found.v1 == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "memory": Path("/sys/fs/cgroup/memory"),
        "freezer": Path("/sys/fs/cgroup/freezer"),
        "pids": Path("/sys/fs/cgroup/pids"),
    }


def test_pure_v1_is_read_from_mountinfo():
    assert Hierarchies.from_mountinfo(PURE_V1).unified is None
    assert not Hierarchies.from_mountinfo(PURE_V1).is_pure_v2


def test_a_unified_tree_without_controllers_is_not_pure_v2(tmp_path: Path):
    (tmp_path / "cgroup.controllers").write_text("cpuset io\n")
    assert not Hierarchies(tmp_path).is_pure_v2
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert Hierarchies(tmp_path).is_pure_v2


class Files:
    """Fake hierarchies: every directory that is made gets the kernel's files, and writes are recorded."""

    V2 = ("cgroup.procs", "cgroup.subtree_control", "cgroup.freeze", "cgroup.kill", "memory.max", "memory.swap.max")
    V2 += ("memory.oom.group", "pids.max", "cpu.max", "cpu.weight", "cgroup.controllers", "io.max")
    V1: ClassVar = {
        "memory": (
            "tasks",
            "cgroup.procs",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
        ),
        "pids": ("tasks", "cgroup.procs", "pids.max"),
        "cpu": ("tasks", "cgroup.procs", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"),
        "freezer": ("tasks", "cgroup.procs", "freezer.state"),
    }

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self.refused: dict[str, int] = {}
        self.controllers = "cpu memory pids\n"
        self._make = Path.mkdir
        self._remove = os.rmdir
        monkeypatch.setattr(Path, "mkdir", lambda path, *given, **named: self.mkdir(path, *given, **named))
        monkeypatch.setattr(cgroup_files, "write", self.write)
        monkeypatch.setattr(module.os, "rmdir", self.rmdir)

    def mkdir(self, path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        self._make(path, mode, parents, exist_ok)
        hierarchy = path.relative_to(self.root).parts[0]
        if hierarchy == "proc":
            return
        for name in self.V2 if hierarchy == "unified" else self.V1[hierarchy]:
            if not (path / name).exists() and (name != "io.max" or "io" in self.controllers):
                (path / name).write_text(self.controllers if name == "cgroup.controllers" else "")

    def write(self, path: Path, text: str) -> None:
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "not there", str(path))
        name = str(path.relative_to(self.root))
        if self.refused.get(name, 0) > 0:
            self.refused[name] -= 1
            raise OSError(errno.EBUSY, "busy", str(path))
        self.writes.append((name, text))

    def rmdir(self, path: Path) -> None:
        """As the kernel: files do not count, child directories and processes do."""
        if (path / "cgroup.procs").read_text() if path.is_dir() else False:
            raise OSError(errno.EBUSY, "busy", str(path))
        if path.is_dir() and not [child for child in path.iterdir() if child.is_dir()]:
            for child in path.iterdir():
                child.unlink()
        self._remove(path)

    def tree(self, *names: str) -> CgroupTree:
        for name in names:
            self._make(self.root / name, exist_ok=True)
        return CgroupTree({name: self.root / name / "pagurus" for name in names}, node="n1", run="r1")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(tmp_path, monkeypatch)


LIMITS = Limits(memory_bytes=64 * MIB, pids=7, cpu_millis=250)


def test_v2_enables_controllers_on_the_way_and_writes_limits(files: Files):
    tree = files.tree("unified")
    assert tree.kind == "v2"
    enabled = [name for name, text in files.writes if text == "+memory +pids +cpu"]
    assert enabled == [
        "unified/pagurus/cgroup.subtree_control",
        "unified/pagurus/n1/cgroup.subtree_control",
        "unified/pagurus/n1/r1/cgroup.subtree_control",
    ]
    files.writes.clear()
    tree.create("z").enable_children()
    assert files.writes == [("unified/pagurus/n1/r1/z/cgroup.subtree_control", "+memory +pids +cpu")]
    files.writes.clear()
    tree.create("z/1").set_limits(LIMITS)
    here = "unified/pagurus/n1/r1/z/1"
    assert files.writes == [
        (f"{here}/memory.max", str(64 * MIB)),
        (f"{here}/memory.swap.max", "0"),
        (f"{here}/memory.oom.group", "1"),
        (f"{here}/pids.max", "7"),
        (f"{here}/cpu.max", "25000 100000"),
        (f"{here}/cpu.weight", "25"),
    ]


def test_v1_writes_limits_into_the_hierarchies_of_their_controllers(files: Files):
    tree = files.tree("memory", "pids", "cpu", "freezer")
    assert tree.kind == "v1" and files.writes == []
    tree.create("z").set_limits(LIMITS)
    assert files.writes == [
        ("memory/pagurus/n1/r1/z/memory.swappiness", "0"),
        ("memory/pagurus/n1/r1/z/memory.limit_in_bytes", str(64 * MIB)),
        ("memory/pagurus/n1/r1/z/memory.memsw.limit_in_bytes", str(64 * MIB)),
        ("pids/pagurus/n1/r1/z/pids.max", "7"),
        ("cpu/pagurus/n1/r1/z/cpu.cfs_period_us", "100000"),
        ("cpu/pagurus/n1/r1/z/cpu.cfs_quota_us", "25000"),
        ("cpu/pagurus/n1/r1/z/cpu.shares", "256"),
    ]


@pytest.mark.parametrize("names", [("unified",), ("memory", "pids", "cpu")])
def test_only_what_has_changed_is_written_again(files: Files, names: tuple[str, ...]):
    cgroup = files.tree(*names).create("z")
    cgroup.set_limits(LIMITS)
    files.writes.clear()
    cgroup.set_limits(LIMITS)
    assert files.writes == []
    cgroup.set_limits(Limits(memory_bytes=64 * MIB, pids=8, cpu_millis=250))
    assert [(name.rpartition("/")[2], text) for name, text in files.writes] == [("pids.max", "8")]
    files.writes.clear()
    cgroup.set_limits(Limits(memory_bytes=64 * MIB, pids=8, cpu_millis=2000))
    written = {name.rpartition("/")[2]: text for name, text in files.writes}
    if "unified" in names:
        assert written == {"cpu.max": "200000 100000", "cpu.weight": "200"}
    else:
        assert written == {"cpu.cfs_quota_us": "200000", "cpu.shares": "2048"}


@pytest.mark.parametrize(("cpu_millis", "weight"), [(1, 1), (250, 25), (1000, 100), (4000, 400), (100_000, 1000)])
def test_the_weight_is_in_proportion_to_the_processors_and_bounded(files: Files, cpu_millis: int, weight: int):
    files.tree("unified").create("z").set_limits(Limits(cpu_millis=cpu_millis))
    assert files.writes[-1] == ("unified/pagurus/n1/r1/z/cpu.weight", str(weight))


def test_swap_is_off_where_the_kernel_does_not_count_it(files: Files):
    cgroup = files.tree("memory", "pids", "cpu").create("z")
    (files.root / "memory/pagurus/n1/r1/z/memory.memsw.limit_in_bytes").unlink()
    cgroup.set_limits(LIMITS, memory_only=True)
    assert [(name.rpartition("/")[2], text) for name, text in files.writes] == [
        ("memory.swappiness", "0"),
        ("memory.limit_in_bytes", str(64 * MIB)),
    ]


def test_v1_raises_memory_in_the_other_order_when_the_first_is_refused(files: Files):
    cgroup = files.tree("memory", "pids", "cpu").create("z")
    files.refused["memory/pagurus/n1/r1/z/memory.limit_in_bytes"] = 1
    cgroup.set_limits(LIMITS, memory_only=True)
    assert [name.rpartition("/")[2] for name, _ in files.writes] == [
        "memory.swappiness",
        "memory.memsw.limit_in_bytes",
        "memory.limit_in_bytes",
    ]


def disk_limited(files: Files, monkeypatch: pytest.MonkeyPatch) -> CgroupTree:
    files.controllers = "cpu io memory pids\n"
    monkeypatch.setattr(module.disks, "below", lambda folder: "8:0")
    return files.tree("unified")


def test_the_disk_is_limited_where_the_kernel_has_io(files: Files, monkeypatch: pytest.MonkeyPatch):
    tree = disk_limited(files, monkeypatch)
    assert {text for _, text in files.writes} == {"+memory +pids +cpu +io"}
    files.writes.clear()
    tree.limit_disk(Path("/state"), 16 * MIB)
    cgroup = tree.create("z")
    cgroup.set_limits(LIMITS)
    cgroup.set_limits(LIMITS)
    bounded = "8:0 rbps=16777216 wbps=16777216 riops=1024 wiops=1024"
    assert [(name, text) for name, text in files.writes if name.endswith("io.max")] == [
        ("unified/pagurus/n1/r1/io.max", bounded),  # tried, and taken back: it would be for all together
        ("unified/pagurus/n1/r1/io.max", "8:0 rbps=max wbps=max riops=max wiops=max"),
        ("unified/pagurus/n1/r1/z/io.max", bounded),
    ]


def test_a_disk_that_cannot_be_limited_is_said_and_costs_no_start(files: Files, monkeypatch: pytest.MonkeyPatch):
    tree = disk_limited(files, monkeypatch)
    files.refused["unified/pagurus/n1/r1/io.max"] = 1
    with pytest.raises(RequirementError, match="disk 8:0 cannot be limited"):
        tree.limit_disk(Path("/state"), 16 * MIB)
    tree.create("z").set_limits(LIMITS)
    assert not [name for name, _ in files.writes if name.endswith("io.max")]


@pytest.mark.parametrize("names", [("unified",), ("memory", "pids", "cpu", "unified"), ("memory", "pids", "cpu")])
def test_without_the_controller_io_there_is_no_limit(files: Files, names: tuple[str, ...]):
    with pytest.raises(RequirementError, match="no controller io"):
        files.tree(*names).limit_disk(Path("/state"), 16 * MIB)


def test_hybrid_limits_by_v1_and_freezes_and_kills_by_v2(files: Files):
    tree = files.tree("memory", "pids", "cpu", "unified")
    assert tree.kind == "v1+v2" and files.writes == [], "nothing to enable in a v2 tree without controllers"
    cgroup = tree.create("z")
    cgroup.freeze(frozen=True)
    cgroup.freeze(frozen=False)
    cgroup.kill()
    here = "unified/pagurus/n1/r1/z"
    assert files.writes == [
        (f"{here}/cgroup.freeze", "1"),
        (f"{here}/cgroup.freeze", "0"),
        (f"{here}/cgroup.kill", "1"),
    ]


def test_without_cgroup_kill_it_freezes_kills_each_and_thaws(files: Files, monkeypatch: pytest.MonkeyPatch):
    cgroup = files.tree("memory", "pids", "cpu", "freezer").create("z")
    killed: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        killed.append((pid, number))
        if pid == 12:
            raise ProcessLookupError

    monkeypatch.setattr(module.os, "kill", kill)
    (files.root / "memory/pagurus/n1/r1/z/cgroup.procs").write_text("11\n12\n")
    (files.root / "pids/pagurus/n1/r1/z/cgroup.procs").write_text("12\n13\n")
    cgroup.kill()
    assert sorted(killed) == [(11, 9), (12, 9), (13, 9)]
    assert [text for _, text in files.writes] == ["FROZEN", "THAWED"]


def test_the_smallest_share_of_a_processor_is_a_thousandth_of_a_second(files: Files):
    cgroup = files.tree("unified").create("z")
    files.writes.clear()
    cgroup.set_limits(Limits(cpu_millis=1))
    assert ("unified/pagurus/n1/r1/z/cpu.max", "1000 100000") in files.writes


def test_entry_is_allowed_by_giving_the_list_of_processes_away(files: Files, monkeypatch: pytest.MonkeyPatch):
    given: list[tuple[Path, int, int]] = []
    monkeypatch.setattr(module.os, "chown", lambda *arguments: given.append(arguments))
    files.tree("memory", "pids", "cpu").create("z").allow_entry(7)
    assert given == [], "v1 needs none: descriptors are passed"
    files.tree("unified").create("z").allow_entry(7)
    assert given == [(files.root / "unified/pagurus/n1/r1/z/cgroup.procs", 7, 7)]


def test_a_process_moves_itself(files: Files):
    cgroup = files.tree("unified", "memory", "pids", "cpu").create("z")
    entries = cgroup.open_entries()
    names = [os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) for fd in entries]
    assert sorted(names) == ["cgroup.procs", "tasks", "tasks", "tasks"]
    files.writes.clear()
    module.enter(entries)
    for path in cgroup.paths:
        assert (path / ("cgroup.procs" if "unified" in path.parts else "tasks")).read_text() == "0"
    with pytest.raises(OSError):
        os.fstat(entries[0])


def test_memory_and_kills_are_read_from_either(tmp_path: Path):
    (tmp_path / "memory.usage_in_bytes").write_text("123\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert Cgroup({"memory": tmp_path}).memory_bytes() == 123
    assert Cgroup({"memory": tmp_path}).oom_kills() == 2
    (tmp_path / "memory.current").write_text("77\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert Cgroup({"unified": tmp_path}).memory_bytes() == 77
    assert Cgroup({"unified": tmp_path}).oom_kills() == 1
    (tmp_path / "memory.events").write_text("low 0\n")
    assert Cgroup({"unified": tmp_path}).oom_kills() == 0


def test_removing_waits_for_processes_and_is_repeatable(files: Files):
    tree = files.tree("memory", "pids", "cpu")
    cgroup = tree.create("z")
    busy = files.root / "pids/pagurus/n1/r1/z/cgroup.procs"
    busy.write_text("5\n")
    assert not cgroup.try_remove()
    assert not tree.try_remove()
    busy.write_text("")
    assert cgroup.try_remove() and cgroup.try_remove()
    assert tree.try_remove()
    assert not (files.root / "memory/pagurus").exists()


def test_leftovers_are_those_of_other_runs_deepest_first(files: Files):
    tree = files.tree("memory", "pids", "cpu")
    former = CgroupTree({n: files.root / n / "pagurus" for n in ("memory", "pids", "cpu")}, node="n1", run="r0")
    CgroupTree({n: files.root / n / "pagurus" for n in ("memory", "pids", "cpu")}, node="n2", run="r0").create("other")
    former.create("z")
    former.create("z/1")
    tree.create("mine")
    files.rmdir(files.root / "cpu/pagurus/n1/r0/z/1")
    found = [
        (str(cgroup.paths[0].relative_to(files.root / "memory/pagurus/n1")), len(cgroup.paths))
        for cgroup in tree.leftovers()
    ]
    assert found == [("r0/z/1", 2), ("r0/z", 3), ("r0", 3)]


def fake_proc(tmp_path: Path, mountinfo: str, own: str = "0::/\n") -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mountinfo)
    (tmp_path / "proc/self/cgroup").write_text(own)
    return tmp_path / "proc"


def test_what_is_missing_is_named(tmp_path: Path):
    proc = fake_proc(tmp_path, "".join(line for line in PURE_V1.splitlines(keepends=True) if "memory" not in line))
    with pytest.raises(RequirementError, match="no cgroup controllers for memory") as caught:
        CgroupTree.detect("pagurus", node="n", run="r", proc=proc)
    assert "cgroup_enable=memory" in caught.value.hint


@pytest.mark.parametrize("attribute", ["trusted.delegate", "user.delegate"])
def test_in_a_service_that_systemd_delegated_the_daemon_steps_aside(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, attribute: str
):
    root = files.root / "unified"
    service = root / "system.slice" / "pagurus.service"
    os.makedirs(service)
    for directory in (root, service):
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.subtree_control").write_text("")
    (service / "cgroup.procs").write_text("41\n42\n")
    mountinfo = f"29 23 0:26 / {root} rw - cgroup2 cgroup2 rw\n"
    proc = fake_proc(tmp_path, mountinfo, "0::/system.slice/pagurus.service\n")
    monkeypatch.setattr(module.os, "getxattr", delegating(service, attribute))
    tree = CgroupTree.detect("pagurus", node="n", run="r", proc=proc)
    where = "unified/system.slice/pagurus.service"
    assert files.writes[:3] == [
        (f"{where}/daemon/cgroup.procs", "41"),
        (f"{where}/daemon/cgroup.procs", "42"),
        (f"{where}/cgroup.subtree_control", "+memory +pids +cpu"),
    ]
    assert tree.create("z").paths == (service / "pagurus/n/r/z",)


def test_in_a_service_that_is_not_delegated_nothing_of_it_is_touched(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
):
    root = files.root / "unified"
    service = root / "system.slice" / "ssh.service"
    os.makedirs(service)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    (root / "cgroup.subtree_control").write_text("")
    (service / "cgroup.procs").write_text("41\n42\n")
    mountinfo = f"29 23 0:26 / {root} rw - cgroup2 cgroup2 rw\n"
    proc = fake_proc(tmp_path, mountinfo, "0::/system.slice/ssh.service\n")
    monkeypatch.setattr(module.os, "getxattr", delegating(root / "elsewhere", "user.delegate"))
    tree = CgroupTree.detect("pagurus", node="n", run="r", proc=proc)
    assert not [name for name, _ in files.writes if "ssh.service" in name]
    assert tree.create("z").paths == (root / "pagurus/n/r/z",)


def delegating(directory: Path, attribute: str):
    """getxattr(2) where systemd has delegated one cgroup."""

    def getxattr(path: Path, name: str) -> bytes:
        if (Path(path), name) == (directory, attribute):
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), str(path))

    return getxattr


def test_a_failed_write_names_file_and_text(tmp_path: Path):
    with pytest.raises(OSError, match=r"write 'x'.*|Read-only|No such") as caught:
        cgroup_files.write(tmp_path / "none", "x")
    assert str(tmp_path / "none") in str(caught.value)
