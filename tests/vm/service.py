"""The installed systemd service, steered by systemctl and spoken to by HTTP."""

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from runtime import config
from tests.leaks import Scope
from tests.pagurusd import Daemon
from tests.slowness import patience_s

CLONE = Path(__file__).resolve().parents[2]
UNIT = "pagurus.service"
UNITS = Path("/etc/systemd/system")
CGROUPS = Path("/sys/fs/cgroup")
BELOW = f"/system.slice/{UNIT}"  # the unit's cgroup
PORT = 8080


class Service(Daemon):
    """scripts/pagurus.service as a user installs it; its settings come in a drop-in, as systemd.unit(5) has it."""

    def __init__(self, **settings: object) -> None:
        defaults = config.load(None, {}, {})
        super().__init__(Scope(defaults.cgroup_parent, defaults.uid_base, Path(defaults.state_dir)), **settings)
        self.port = PORT

    def install(self) -> None:
        shutil.copy(CLONE / "scripts" / UNIT, UNITS / UNIT)
        # The unit's own waits, scaled, beside the settings.
        lines = [f'Environment="PAGURUS_{name.upper()}={value}"' for name, value in self.settings.items()]
        lines += [
            f"TimeoutStartSec={patience_s(120):.0f}",
            f"TimeoutStopSec={patience_s(30):.0f}",
        ]  # the unit's, scaled
        drop_in = UNITS / f"{UNIT}.d"
        drop_in.mkdir(exist_ok=True)
        (drop_in / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))
        systemctl("daemon-reload")

    def start(self, **more: str) -> None:
        assert not more
        systemctl("start", UNIT)

    def stop(self) -> int:
        systemctl("stop", UNIT)
        return int(self.shown("ExecMainStatus"))

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.request("GET", "/readyz").status == 200
        return False

    def __exit__(self, *_: object) -> None:
        self.stop()

    def shown(self, name: str) -> str:
        """A property of the unit."""
        return systemctl("show", "--property", name, "--value", UNIT).strip()

    def main_pid(self) -> int:
        return int(self.shown("MainPID"))

    def gateway(self) -> int:
        """The gateway's pid, which has the unit's own user."""
        children = Path(f"/proc/{self.main_pid()}/task/{self.main_pid()}/children").read_text().split()
        return next(int(pid) for pid in children if b"\0gateway" in Path(f"/proc/{pid}/cmdline").read_bytes())

    def log(self) -> str:
        command = ["journalctl", "--unit", UNIT, "--no-pager", "--output", "cat"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def sandbox(self, function: str, state: str) -> dict[str, Any]:
        """The row of the function's one sandbox, once that is in this state."""
        rows = self.until(
            lambda: self.sandboxes(function=function, state=state), f"a sandbox of {function} to be {state}"
        )
        assert len(rows) == 1, rows
        return dict(rows[0])


def systemctl(*arguments: str) -> str:
    done = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=patience_s(60), check=False
    )
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


def cgroup_path(pid: int) -> str:
    """The v2 cgroup that a process is in, as the host sees it."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def cgroup_file(pid: int, name: str) -> str:
    """What a file of the cgroup says that the process is in."""
    return (CGROUPS / cgroup_path(pid).lstrip("/") / name).read_text().strip()
