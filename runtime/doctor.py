"""What pagurusd needs of a machine, as a table of checks: `pagurus doctor`, and pagurusd's own start. A leaf.

A check never raises: what goes wrong inside one is what it found.
"""

from collections.abc import Callable
from dataclasses import dataclass

from runtime import kernel_probes as kernel
from runtime import machine_probes as machine
from runtime.config import Settings
from runtime.errors import RequirementError
from runtime.protocol import Check

SETUP = "run scripts/setup"
NO_ISOLATION = "no sandbox can be made"


@dataclass(frozen=True, slots=True)
class Probe:
    """One line of the table. `find` answers with what it found, or raises; `lost` and `fix` are for that case."""

    name: str
    find: Callable[[Settings], str]
    lost: str
    fix: str
    required: bool = True


def run_checks(settings: Settings) -> tuple[Check, ...]:
    """All checks, in the table's order. Takes some tens of ms; forks, so call it while there is one thread."""
    return tuple(check(probe, settings) for probe in probes(settings))


def check(probe: Probe, settings: Settings) -> Check:
    """Run one probe, whatever happens in it."""
    try:
        found = probe.find(settings)
    except Exception as error:
        fix = (error.hint if isinstance(error, RequirementError) else "") or probe.fix
        found = error.message if isinstance(error, RequirementError) else _words(error)
        return Check(name=probe.name, ok=False, required=probe.required, found=found, lost=probe.lost, fix=fix)
    return Check(name=probe.name, ok=True, required=probe.required, found=found)


def probes(settings: Settings) -> tuple[Probe, ...]:
    """The table, for these settings."""
    return (*_privilege_probes(), *_kernel_probes(), *_folder_probes(), *_program_probes(settings), *_limit_probes())


def _words(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    subject = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return f"{text or type(error).__name__}{subject}"


def _privilege_probes() -> tuple[Probe, ...]:
    return (
        Probe("root", lambda s: machine.root(), "pagurusd cannot run", "start it as root: sudo pagurusd"),
        Probe(
            "gateway user", lambda s: machine.user(s.gateway_user), "the gateway cannot run without privileges", SETUP
        ),
        Probe(
            "builder user", lambda s: machine.user(s.builder_user), "packages cannot be built without privileges", SETUP
        ),
    )


def _kernel_probes() -> tuple[Probe, ...]:
    newer = "boot a kernel of version 5.14 or newer; Debian 12 and 13 have one"
    return (
        Probe("kernel", lambda s: kernel.kernel_release(), NO_ISOLATION, newer),
        Probe(
            "namespaces",
            lambda s: kernel.namespaces(),
            NO_ISOLATION,
            "run on the host or in a virtual machine; sysctl user.max_user_namespaces must be above 0",
        ),
        Probe(
            "proc in a user namespace",
            lambda s: kernel.proc_in_user_namespace(),
            "no zygote can start",
            "run outside a container: its masked /proc forbids new ones",
        ),
        Probe("pidfd", lambda s: kernel.pidfd(), "the end of a sandbox cannot be watched", newer),
        Probe(
            "seccomp",
            lambda s: kernel.seccomp(),
            "system calls of functions cannot be filtered",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        ),
        Probe(
            "overlay",
            lambda s: kernel.overlay(machine.existing_parent(s.state_dir)),
            "code and packages cannot be mounted",
            "modprobe overlay; state_dir must be on a file system that overlay takes as a lower, such as ext4 or xfs",
        ),
        Probe(
            "cgroup controllers",
            lambda s: kernel.cgroup_controllers(),
            "memory, processes and cpu of a sandbox have no limit",
            "boot with systemd's defaults (cgroup v2), or mount the v1 hierarchies memory, pids and cpu",
        ),
        Probe(
            "cgroup version 2",
            lambda s: kernel.clone_into_cgroup(),
            "starts take some 8 ms longer, and sandboxes are killed process by process",
            "mount a cgroup2 file system, also beside v1 at /sys/fs/cgroup/unified",
            required=False,
        ),
        Probe(
            "swap limit",
            lambda s: kernel.swap_limit(),
            "a sandbox at its memory limit goes on in swap",
            "boot with swapaccount=1, or swapoff -a",
            required=False,
        ),
        Probe(
            "disk limit",
            machine.disk_limit,
            "one sandbox can slow all others by reading from the disk",
            "boot with systemd's defaults (cgroup v2), with state_dir on a disk; or set disk_bytes_per_s = 0",
            required=False,
        ),
    )


def _folder_probes() -> tuple[Probe, ...]:
    return (
        Probe(
            "state folder",
            lambda s: machine.folder(s.state_dir),
            "functions and layers cannot be stored",
            "set state_dir to a writable folder of a local file system",
        ),
        Probe(
            "run folder",
            lambda s: machine.folder_writable(s.run_dir),
            "pagurusd and the gateway cannot meet",
            "set run_dir to a writable folder",
        ),
        Probe(
            "space for layers",
            lambda s: machine.free_space(s.state_dir),
            "builds of large packages fail",
            "free at least 2 GiB, or set state_dir to a larger file system",
            required=False,
        ),
        Probe(
            "base rootfs",
            machine.base_rootfs,
            "no function can start: sandboxes have no interpreter",
            SETUP,
        ),
    )


def _program_probes(settings: Settings) -> tuple[Probe, ...]:
    has_base = bool(machine.base_names(settings))
    modules = (
        ("prctl", "privileges cannot be dropped"),
        ("pyroute2", "sandboxes have no network set-up"),
        ("psutil", "the node cannot be measured"),
        ("uvloop", "the gateway and pagurusd cannot run"),
    )
    return (
        Probe("C extension", lambda s: machine.extension(), "zygotes cannot fork helpers", SETUP),
        Probe("init program", lambda s: machine.init_program(), "zygotes have no pid 1", SETUP),
        *(Probe(f"module {name}", _module(name), lost, SETUP) for name, lost in modules),
        Probe("uv", lambda s: machine.program("uv"), "functions with requirements cannot be deployed", SETUP),
        Probe(
            "mmdebstrap",
            lambda s: machine.program("mmdebstrap"),
            "no base rootfs can be built",
            "apt-get install mmdebstrap",
            required=not has_base,
        ),
        Probe(
            "nft",
            lambda s: machine.program("nft"),
            "functions cannot have egress",
            "apt-get install nftables",
            required=False,
        ),
        Probe(
            "forwarding",
            lambda s: machine.forwarding(),
            "functions cannot have egress",
            "run pagurusd where /proc/sys is writable",
            required=False,
        ),
        Probe(
            "criu",
            lambda s: machine.program("criu"),
            "no restored starts: idle zygotes cannot be put on disk",
            "apt-get install criu",
            required=False,
        ),
        Probe(
            "crun",
            lambda s: machine.program("crun"),
            "scripts/bench cannot compare with a container's start",
            "apt-get install crun",
            required=False,
        ),
    )


def _module(name: str) -> Callable[[Settings], str]:
    return lambda _: machine.module(name)


def _limit_probes() -> tuple[Probe, ...]:
    return (
        Probe(
            "memory",
            lambda s: machine.memory(),
            "few sandboxes fit",
            "free at least 1 GiB",
            required=False,
        ),
        Probe(
            "open files",
            machine.descriptors,
            "fewer sandboxes at once than sandboxes_max",
            "raise LimitNOFILE or ulimit -n, or lower sandboxes_max",
            required=False,
        ),
        Probe(
            "namespace limits",
            machine.namespace_limits,
            "fewer sandboxes at once than sandboxes_max",
            "raise the named settings by sysctl, or lower sandboxes_max",
            required=False,
        ),
        Probe(
            "uid range",
            machine.uid_range,
            "sandboxes would share uids with users of this machine, or with their containers",
            "set uid_base to a range that users, groups, /etc/subuid and /etc/subgid leave free",
        ),
        Probe(
            "listen address",
            machine.listen,
            "the gateway cannot listen",
            "set listen to another port, or stop the program that holds it",
        ),
    )
