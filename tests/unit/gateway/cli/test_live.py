import json

STATUS = {
    "name": "report",
    "version": "ab" * 32,
    "runtime": "python3.11",
    "pool": {"idle": 1, "frozen": 0, "busy": 2, "waiting": 0},
    "next_start": {"kind": "helped", "zygote": "z-1", "standby": "z-1.3"},
    "zygotes": [
        {
            "id": "z-1",
            "state": "ready",
            "kind": "helped",
            "is_preferred": True,
            "is_meant": True,
            "owner": "numbers",
            "why": "miss rate 0.4",
            "standbys": 2,
        },
        {"id": "base-python3.11", "state": "ready", "kind": "cold", "is_preferred": False, "standbys": 1},
    ],
    "last_starts": {
        "cold": {"invocation": "i-1", "started": "2026-11-24T18:00:00.123Z", "status": "succeeded", "duration_ms": 88.5}
    },
    "policy": "pagurus",
    "decisions": {
        "rates": {"arrivals_per_s": 0.25},
        "idle_after_s": 31.5,
        "held_bytes": 2048,
        "helpers": ["a", "b"],
        "why": "idle \x1b longer",
    },
}


def test_a_function_shows_its_live_view(pagurus, gateway):
    gateway.answer("GET", "/v1/functions/report/status", STATUS)
    out = pagurus("status", "report").stdout
    rows = dict(line.strip().split("  ", 1) for line in out.splitlines() if "  " in line.strip())
    rows = {key: value.strip() for key, value in rows.items()}
    assert rows["pool"] == "1 idle, 2 busy"
    assert rows["next start"] == "helped: standby z-1.3 of z-1"
    assert rows["last cold"] == "2026-11-24 18:00:00, 88.5 ms in all, invocation i-1"
    assert (rows["rates.arrivals_per_s"], rows["held_bytes"], rows["helpers"]) == ("0.25", "2 KiB", "a b")
    assert rows["why"] == "idle ? longer"
    assert "miss rate 0.4" in out and "numbers" in out


def test_a_function_that_nothing_can_start_is_shown_too(pagurus, gateway):
    gateway.answer("GET", "/v1/functions/report/status", {"name": "report", "pool": {"idle": 0}, "next_start": None})
    out = pagurus("status", "report").stdout
    assert "empty" in out and "no zygote can start it" in out


def test_the_live_view_as_json(pagurus, gateway):
    gateway.answer("GET", "/v1/functions/report/status", STATUS)
    assert json.loads(pagurus("status", "report", "--json").stdout) == STATUS


def test_a_fork_is_told_from_a_standby(pagurus, gateway):
    gateway.answer(
        "GET", "/v1/functions/f/status", {"next_start": {"kind": "cold", "zygote": "base-python3.11", "standby": None}}
    )
    assert "cold: a fork of base-python3.11" in pagurus("status", "f").stdout
