"""A trace is replayed against a real node. Timing decides nothing."""

import csv
import json
from pathlib import Path

from tests.pagurusd import Daemon

APPLICATIONS = {
    "one": {
        "tr_first": {"start_offset_s": 0, "duration_s": 0.02},
        "tr-then": {"start_offset_s": 0.5, "duration_s": 0.01},
    },
    "two": {"tr-then": {"start_offset_s": 0, "duration_s": 0.02}},
}
SOURCE = """import time

def main(param):
    assert param["mode"] == "sleep"
    time.sleep(param["duration_s"])
"""


def test_a_trace_is_replayed_and_leaves_nothing(fresh: Daemon, tmp_path: Path):
    for name in ("tr-first", "tr-then"):
        fresh.deploy(name, SOURCE)
    (tmp_path / "applications.json").write_text(json.dumps(APPLICATIONS))
    (tmp_path / "trace.csv").write_text("application,second,calls\none,0,3\ntwo,10,1\none,28,2\none,31,9\n")
    files = ("--csv", tmp_path / "out.csv", "--output", tmp_path / "out.json")
    options = (
        "--applications",
        tmp_path / "applications.json",
        "--speed",
        "10",
        "--duration",
        "3",
        "--time-scale",
        "0.5",
    )
    done = fresh.cli("bench", "trace", tmp_path / "trace.csv", *options, *files)
    assert (tmp_path / "out.json").exists(), done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    requests = found["requests"]
    assert done.returncode == (0 if requests["is_valid"] else 1), done.stderr  # a busy machine makes the sender late
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["function"] for row in rows) == ["tr-first"] * 5 + ["tr-then"] * 6
    assert requests["failures"] == {} and {row["status"] for row in rows} == {"200"}
    kinds = [row["start_kind"] for row in rows]
    assert set(kinds) <= {"warm", "helped", "cold"} and kinds.count("helped") + kinds.count("cold") >= 2
    assert requests["start_kinds"]["warm"] == kinds.count("warm")
    assert all(float(row["end_to_end_ms"]) >= float(row["run_ms"]) for row in rows)
    assert found["node"]["samples"] >= 2 and found["node"]["held_gb_s"]["base_zygotes"] > 0


def test_the_node_shows_its_tree_and_a_function_its_live_view(fresh: Daemon):
    fresh.deploy("tree", "def main(param):\n    return 1\n")
    assert fresh.result("tree") == 1
    tree = fresh.cli("ps", "--tree").stdout
    assert "base zygote, ready" in tree and "tree, helped, " in tree
    nested = json.loads(fresh.cli("ps", "--tree", "--json").stdout)["runtimes"]
    sandboxes = [one for runtime in nested for zygote in runtime["zygotes"] for one in zygote["sandboxes"]]
    assert "tree" in {one["function"] for one in sandboxes}
    live = json.loads(fresh.cli("status", "tree", "--json").stdout)
    assert live["pool"]["idle"] + live["pool"]["frozen"] == 1 and "helped" in live["last_starts"]
    assert live["policy"] == fresh.get("/v1/status")["policy"]
    assert fresh.cli("status", "tree").returncode == 0
    assert "zygote wanted: " in fresh.log(), "decisions are logged with their reasons"
