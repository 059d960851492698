"""What a zygote finds of its packages' doings by itself."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]


def faults(source: str) -> list[str]:
    """In a process of its own: nothing that this does is to stay."""
    program = "import json\nfrom runtime.fork.manners import Manners\nbefore = Manners()\n"
    program += textwrap.dedent(source)
    program += "\nreplaced = before.replaced()\n"
    program += "print('\\n' + json.dumps([*before.faults(), *([replaced] if replaced else [])]))\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ}
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", []),
        ("import logging, random, atexit\natexit.register(int)\nrandom.seed(1)", []),
        ("import os\nos.register_at_fork(before=lambda: None)", []),
        ("import os\nos.environ['X'] = '1'\nos.mine = lambda: None", []),
        ("import signal\nsignal.setitimer(signal.ITIMER_VIRTUAL, 1000)", ["set ITIMER_VIRTUAL"]),
        ("import sys\nsys.setprofile(lambda *_: None)", ["called sys.setprofile"]),
        ("import sys\nsys.settrace(lambda *_: None)", ["called sys.settrace"]),
        ("import builtins\nbuiltins.abs = None", ["replaced builtins.abs"]),
        ("import os\ndel os.listdir", ["replaced os.listdir"]),
        ("import builtins\nbuiltins.__import__ = lambda *a, r=builtins.__import__, **k: r(*a, **k)", []),
        ("import sys, types\nsys.modules['decimal'] = types.ModuleType('decimal')", []),
        ("import sys, types\nsys.modules['os'] = types.ModuleType('os')", ["replaced os"]),
    ],
)
def test_what_is_a_fault_and_what_is_not(source: str, words: list[str]):
    assert faults(source) == words


def test_many_are_named_by_some():
    (fault,) = faults(
        "import os\nfor name in ('open', 'read', 'write', 'close', 'dup', 'stat', 'fork'):\n"
        "    setattr(os, name, None)\n"
    )
    assert fault.endswith("and 2 more")


def test_timers_are_those_of_the_kernel():
    assert {name for name in dir(signal) if name.startswith("ITIMER_")} == {
        "ITIMER_REAL",
        "ITIMER_VIRTUAL",
        "ITIMER_PROF",
    }
