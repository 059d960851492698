"""The shell scripts, as far as they go without changing the machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[3]
SCRIPTS = CLONE / "scripts"
SHELL = [SCRIPTS / name for name in ("setup", "run", "test", "test-vm", "uninstall", "lib.sh")]
SHELL += [SCRIPTS / "vm" / name for name in ("image.sh", "machine.sh", "in-root", "boot-files", "guest")] + [
    CLONE / ".ci" / "run"
]


def bash(*arguments, **environ):
    return subprocess.run(
        ["bash", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_parse_and_stop_at_the_first_error(script):
    assert bash("-n", script).returncode == 0
    if script.suffix != ".sh":
        stops = "set -uo pipefail" if script.name == "guest" else "set -euo pipefail"  # that one always writes a result
        assert stops in script.read_text()
        assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    found = [script for script in SHELL if script.suffix != ".sh"]  # the others with those who source them
    command = ["shellcheck", "--severity=warning", "-x", "-a", "-P", SCRIPTS, *found, SCRIPTS / "vm/init"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["setup", "run", "test-vm", "uninstall"])
def test_scripts_tell_their_usage(name):
    assert f"scripts/{name}" in bash(SCRIPTS / name, "--help").stdout
    wrong = bash(SCRIPTS / name, "--nonsense")
    assert wrong.returncode == 2
    assert "--nonsense" in wrong.stderr


@pytest.mark.parametrize("arguments", [("--runtime",), ("--runtime", "--quiet"), ("--runtime", "pypy")])
def test_setup_wants_the_name_of_a_runtime(arguments):
    wrong = bash(SCRIPTS / "setup", *arguments)
    assert wrong.returncode == 2
    assert "python3.13" in wrong.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("prefix", ["/", "/opt", "relative", "/opt/a:b"])
def test_a_prefix_that_is_no_folder_of_its_own_is_refused(prefix):
    done = bash(SCRIPTS / "uninstall", "--yes", PAGURUS_PREFIX=prefix)
    assert done.returncode == 1
    assert f"PAGURUS_PREFIX is {prefix}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_uninstall_does_nothing_before_yes(tmp_path):
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    (prefix / ".pagurus").touch()
    done = bash(SCRIPTS / "uninstall", PAGURUS_PREFIX=str(prefix))
    assert done.returncode == 1
    assert "nothing was done" in done.stderr
    assert prefix.is_dir()


def library(tmp_path, text, **environ):
    script = tmp_path / "script"
    script.write_text(f'set -euo pipefail\n. "{SCRIPTS}/lib.sh"\n{text}\n')
    return bash(script, TMPDIR=str(tmp_path), **environ)


def test_a_step_says_that_it_is_done_and_hides_its_output(tmp_path):
    done = library(tmp_path, "step 'greeting' echo hidden")
    assert done.returncode == 0
    assert "greeting: done in " in done.stdout
    assert "hidden" not in done.stdout
    assert not list(tmp_path.glob("pagurus-step.*"))


def test_a_failing_step_shows_its_output_and_ends_the_script(tmp_path):
    text = "work() { echo shown; false; echo never; }\nstep 'working' work\necho 'not reached'"
    done = library(tmp_path, text)
    assert done.returncode == 1
    assert "| shown" in done.stderr and "failed (status 1): working" in done.stderr
    assert "never" not in done.stderr and "not reached" not in done.stdout
    assert not list(tmp_path.glob("pagurus-step.*"))


def test_quiet_steps_are_quiet(tmp_path):
    assert library(tmp_path, "step 'greeting' echo hidden", QUIET="yes").stdout == ""


def test_a_failing_step_names_the_next_one(tmp_path):
    done = library(tmp_path, "NEXT_STEP='try harder'\nstep 'working' false")
    assert done.returncode == 1
    assert done.stderr.endswith("  next step: try harder\n")


def test_what_is_watched_is_said_and_nothing_goes_on_behind_the_script(tmp_path):
    log = tmp_path / "log"
    log.write_text("first\nlatest\n")
    done = library(tmp_path, f"watch_step 'booting' '{log}'\nsleep 0.1\njobs -p\n_end_step\njobs -p")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, "  booting …")
    assert len(lines) == 2, "one watcher, then none"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_packages_that_are_there_are_not_installed_again(tmp_path):
    done = library(tmp_path, "need_packages dpkg", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_end_names_the_next_step(tmp_path):
    text = "die 'this is old' 'use Debian 12'"
    done = library(tmp_path, text)
    assert done.returncode == 1
    assert done.stderr == "script: this is old\n  next step: use Debian 12\n"
