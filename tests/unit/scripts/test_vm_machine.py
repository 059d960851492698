"""scripts/vm/machine.sh with a double of qemu: retries, time limits, results, and that nothing is left."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
PASSED = "===== 1 passed in 0.10s ====="

QEMU = """
import io, os, sys, tarfile, time
from pathlib import Path
here = Path(sys.argv[0]).parent
serial = next(word.removeprefix("file:") for word in sys.argv if word.startswith("file:"))
results = next(word for word in sys.argv if "results.img" in word).split(",")[0].removeprefix("file=")
with open(here / "runs", "a") as runs:
    runs.write(f"{os.getpid()}\\n")
run = len((here / "runs").read_text().split())
mode = os.environ["MODE"]
if mode == "dead" or (mode == "flaky" and run == 1):
    sys.exit("no such machine")
if mode == "stuck":
    time.sleep(60)
Path(serial).write_text("pagurus-vm: tests begin at 9 s\\nthe console\\n")
if mode == "slow":
    time.sleep(60)
if mode == "silent":
    sys.exit(0)
bad = mode == "bad"
word = "1 failed" if bad else "1 passed"
fault = '<failure message="wrong"/>' if bad else ""
files = {
    "status": "1" if bad else "0",
    "junit.xml": f'<testsuite><testcase classname="a" name="b">{fault}</testcase></testsuite>',
    "pytest.log": f"===== {word} in 0.10s =====\\n",
}
with tarfile.open(results, "w") as tar:
    for name, text in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
"""
SCRIPT = f"""
set -euo pipefail
here={SCRIPTS}
. "$here/lib.sh"
. "$here/vm/machine.sh"
failed=''
work=$TMPDIR/work
mkdir "$work"
test_machine 'Debian 99' "$TMPDIR/image" "$TMPDIR/last"
[ -z "$failed" ]
"""


@pytest.fixture
def script(tmp_path):
    """Starts a script that runs the machine once. `MODE` is what the double of qemu does."""
    (tmp_path / "qemu-system-x86_64").write_text(f"#!{sys.executable}\n{QEMU}")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    (tmp_path / "script").write_text(SCRIPT)
    started = []

    def start(mode, **environ):
        process = subprocess.Popen(
            ["bash", tmp_path / "script"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "TMPDIR": str(tmp_path),
                "POLL_S": "0.02",
                "MODE": mode,
                **environ,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def machines(tmp_path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "runs").read_text().split()]


def assert_nothing_is_left(tmp_path):
    assert not (tmp_path / "work").exists()
    for pid in machines(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_machine_whose_tests_pass(script, tmp_path):
    process = script("good")
    lines = process.communicate(timeout=20)[0].splitlines()
    assert process.returncode == 0, lines
    assert lines[-1] == PASSED
    assert (tmp_path / "last/serial.log").read_text().endswith("the console\n")
    assert_nothing_is_left(tmp_path)


def test_tests_that_fail_are_not_run_again(script, tmp_path):
    process = script("bad")
    out = process.communicate(timeout=20)[0]
    assert (process.returncode, out.splitlines()[-1]) == (1, "===== 1 failed in 0.10s =====")
    assert "| the console" in out and "failed: a::b: wrong" in out
    assert len(machines(tmp_path)) == 1


def test_a_machine_that_does_not_boot_gets_one_more_try(script, tmp_path):
    process = script("flaky")
    out = process.communicate(timeout=20)[0]
    assert (process.returncode, out.splitlines()[-1]) == (0, PASSED)
    assert "it did not boot (attempt 1 of 2)" in out and "| no such machine" in out
    assert len(machines(tmp_path)) == 2


def test_a_machine_that_never_boots_is_an_error(script, tmp_path):
    process = script("dead")
    out = process.communicate(timeout=20)[0]
    assert (process.returncode, out.splitlines()[-1]) == (1, "= 1 error =")
    assert "next step" in out and len(machines(tmp_path)) == 2


def test_a_machine_that_boots_and_says_nothing_more_is_an_error(script, tmp_path):
    process = script("silent")
    out = process.communicate(timeout=20)[0]
    assert (process.returncode, out.splitlines()[-1]) == (1, "= 1 error =")
    assert "there is no result" in out and len(machines(tmp_path)) == 1


@pytest.mark.parametrize(("mode", "limit", "runs"), [("stuck", "BOOT_S", 2), ("slow", "TESTS_S", 1)])
def test_a_machine_that_takes_too_long_is_ended(script, tmp_path, mode, limit, runs):
    process = script(mode, **{limit: "0"})
    out = process.communicate(timeout=30)[0]
    assert (process.returncode, out.splitlines()[-1]) == (1, "= 1 error =")
    assert len(machines(tmp_path)) == runs
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_script_ends_the_machine(script, tmp_path, number):
    process = script("slow")
    while "testing" not in (line := process.stdout.readline()):
        assert line, "it ended"
    pidfd = os.pidfd_open(machines(tmp_path)[0])
    if number is signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait(timeout=20) != 0
    assert select.select([pidfd], [], [], 10)[0], "the machine lives on"
    os.close(pidfd)
    if number is not signal.SIGKILL:  # that one's disks are removed by the next run
        assert_nothing_is_left(tmp_path)
