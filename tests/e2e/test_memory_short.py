"""A node whose memory runs short for real: a limit on the cgroup above all sandboxes, and functions that fill it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.node_bed import state_directory
from tests.pagurusd import Answer, Daemon

MIB = 1 << 20
LIMIT_BYTES = 400 * MIB
HELD_BYTES = 60 * MIB
SOURCE = """
import time

kept = []

def main(param):
    if not kept:
        kept.append(bytearray(b"x") * param["bytes"])
    time.sleep(param["s"])
    return len(kept[0])
"""


@pytest.fixture
def tight() -> Iterator[Daemon]:
    """A daemon that finds half of its memory little, and two fifths of it critical."""
    settings = {"standbys_per_zygote": 1, "memory_low_percent": 50, "memory_critical_percent": 40, "drain_s": 5}
    with state_directory() as scope, leaks.no_leaks(scope), Daemon(scope, **settings) as daemon:
        yield daemon


def limit_memory(daemon: Daemon, limit_bytes: int) -> None:
    """Of the cgroup that `cgroup_parent` names, in the hierarchy that has the memory controller."""
    daemon.until(daemon.sandboxes, "a standby")
    pid = daemon.until(lambda: [row["pid"] for row in daemon.sandboxes() if row["pid"]], "its pid")[0]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        parts = Path(path).parts  # / … PARENT NODE RUN ZYGOTE N
        if "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        elif controllers == "" and (Path("/sys/fs/cgroup") / "cgroup.controllers").exists():
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        else:
            continue
        (root / Path(*parts[1:-4]) / name).write_text(str(limit_bytes))
        return
    raise AssertionError("no memory controller")


def memory(daemon: Daemon) -> dict:
    return dict(daemon.get("/v1/status")["memory"])


def test_idle_sandboxes_go_before_the_kernel_kills_and_new_ones_are_refused_while_it_is_critical(tight: Daemon):
    tight.deploy("hog", SOURCE, limits={"memory_bytes": 128 * MIB})
    tight.deploy("other", SOURCE)
    assert memory(tight)["level"] == "normal"
    tight.until(lambda: memory(tight)["total_bytes"], "a reading")
    limit_memory(tight, LIMIT_BYTES)

    answers: list[Answer] = []
    hogs = [
        threading.Thread(target=lambda: answers.append(tight.invoke("hog", {"bytes": HELD_BYTES, "s": 3})))
        for _ in range(4)
    ]
    for hog in hogs:
        hog.start()
    tight.until(lambda: memory(tight)["level"] == "critical", "memory to be critical")
    assert memory(tight)["total_bytes"] == LIMIT_BYTES
    busy = {row["id"] for row in tight.sandboxes(function="hog", state="busy")}
    assert len(busy) == 4
    refused = tight.invoke("other", {"bytes": 1, "s": 0})
    assert (refused.status, refused.word) == (503, "memory-short")
    assert "memory_critical_percent is 40" in refused.json["detail"] and int(refused.headers["Retry-After"]) >= 1
    for hog in hogs:
        hog.join()
    assert [answer.status for answer in answers] == [200] * 4, "what is busy is never given up"

    tight.until(lambda: memory(tight)["level"] == "normal", "what is idle to be given up")
    given_up = memory(tight)["given_up"]
    assert given_up["sandboxes"] >= 2 and given_up["zygotes"] == 0
    assert len(tight.sandboxes(function="hog")) <= 2
    assert tight.result("other", {"bytes": 1, "s": 0}) == 1
    log = tight.log()
    assert "memory is critical: " in log and "idle sandboxes given up, " in log and "memory is enough again" in log
    # Standbys come back when there has been enough for a while.
    tight.until(lambda: tight.sandboxes(state="standby"), "a standby")


def test_a_node_that_is_always_short_still_serves_and_keeps_nothing_idle(tight: Daemon):
    tight.stop()
    tight.settings |= {"memory_low_percent": 100, "memory_critical_percent": 0}
    tight.start()
    tight.wait_ready()
    tight.deploy("served", SOURCE)
    for _ in range(2):
        answer = tight.invoke("served", {"bytes": 1, "s": 0})
        assert (answer.status, answer.headers["X-Pagurus-Start-Kind"]) == (200, "helped")
        tight.until(lambda: not tight.sandboxes(), "everything idle to be given up, standbys too")
    assert memory(tight)["level"] == "low" and memory(tight)["given_up"]["standbys"] >= 1
