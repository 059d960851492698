import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "progress.py"


def shown(*events, quiet=""):
    text = "".join((event if isinstance(event, str) else json.dumps(event)) + "\n" for event in events)
    return subprocess.run(
        [sys.executable, "-I", SCRIPT],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "QUIET": quiet},
    )


STEP = {"event": "progress", "phase": "base", "message": "extracting", "fraction": 0.4}


def test_steps_are_lines_and_repeated_ones_are_not_said_twice():
    done = shown(STEP, STEP, {"event": "done", "path": "/x", "digest": "y"})
    assert done.returncode == 0
    assert done.stdout.count("40%  base: extracting") == 1
    assert done.stderr == ""


def test_quiet_is_quiet():
    assert shown(STEP, {"event": "done"}, quiet="yes").stdout == ""


def test_a_failure_says_what_and_what_next():
    done = shown(STEP, {"event": "failed", "kind": "base", "message": "no mirror", "hint": "look at apt"}, quiet="yes")
    assert done.returncode == 1
    assert "no mirror" in done.stderr and "next step: look at apt" in done.stderr


@pytest.mark.parametrize("events", [(), (STEP,), ("Traceback",)])
def test_an_end_without_a_word_is_a_failure(events):
    done = shown(*events)
    assert done.returncode == 1
    assert "without saying how" in done.stderr
