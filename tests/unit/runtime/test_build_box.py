"""What a failed build in a box is called, and what is advised."""

from pathlib import Path

import pytest

from runtime import build_box
from runtime.box_output import BoxOutput
from runtime.box_root import BoxRoot
from runtime.config import Settings
from runtime.errors import BuildError, StartError
from runtime.reaper import Exit

SETUPTOOLS = "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory"
NO_COMPILER = [
    SETUPTOOLS,
    "unable to execute 'gcc': No such file or directory",
    "error: command '/usr/bin/g++' failed with exit code 1",
    "demo.c:1:10: fatal error: Python.h: No such file or directory",
    "FileNotFoundError: [Errno 2] No such file or directory: 'cc'",
    "../meson.build:1:0: ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]",
    "CMake Error: CMAKE_C_COMPILER not set, after EnableLanguage",
]


class Output(BoxOutput):
    """Output that a test says."""

    def __init__(self, tail: str, *, is_flood: bool = False) -> None:
        self._said = tail
        self.is_flood = is_flood

    @property
    def tail(self) -> str:
        return self._said


def judged(
    tail: str,
    ended: Exit | None = None,
    *,
    is_flood: bool = False,
    has_toolchain: bool = False,
    is_out_of_memory: bool = False,
) -> BuildError:
    root = BoxRoot("key", (Path("/"),), has_toolchain)
    output = Output(tail, is_flood=is_flood)
    with pytest.raises(BuildError) as failed:
        build_box._judge(
            ended or Exit(2, None), output, Settings(), root, "build demo-1.0.tar.gz", is_out_of_memory=is_out_of_memory
        )
    return failed.value


@pytest.mark.parametrize("tail", NO_COMPILER)
def test_a_missing_compiler_is_told_with_what_to_run(tail: str):
    error = judged(tail)
    assert (error.kind, error.hint.startswith("run scripts/setup --toolchain")) == ("sdist", True)
    assert tail in error.message
    assert "--toolchain" not in judged(tail, has_toolchain=True).hint


@pytest.mark.parametrize("tail", ["RuntimeError: no luck", "success of gcc is not told here", ""])
def test_other_failures_do_not_ask_for_a_compiler(tail: str):
    error = judged(tail)
    assert error.kind == "sdist"
    assert error.hint and "--toolchain" not in error.hint


@pytest.mark.parametrize(
    ("tail", "facts", "words"),
    [
        ("x", {"is_flood": True}, "too much output"),
        ("x", {"is_out_of_memory": True}, "sdist_memory_bytes, 2048 MiB"),
        ("OSError: [Errno 28] No space left on device", {}, "sdist_memory_bytes"),
    ],
)
def test_limits_are_told_as_limits(tail: str, facts: dict[str, bool], words: str):
    error = judged(tail, **facts)
    assert error.kind == "limit"
    assert words in error.message
    assert tail in error.message


def test_what_cannot_be_resolved_is_of_the_requirements():
    assert judged("error: No solution found when resolving dependencies: absent").kind == "requirements"
    assert judged("Failed to build `demo`: No solution found when resolving: `build-system`").kind == "sdist"


def test_a_uv_that_was_killed_is_told_by_its_signal():
    assert "SIGSEGV" in judged("", Exit(None, 11)).message


def test_a_build_that_ended_well_is_no_error():
    root = BoxRoot("key", (Path("/"),), has_toolchain=False)
    build_box._judge(Exit(0, None), Output("gcc: not found"), Settings(), root, "demo", is_out_of_memory=False)


@pytest.mark.parametrize(
    ("phase", "message", "kind"),
    [
        ("copy demo.tar.gz", "ValueError: demo.tar.gz has the sha256 0, not 1", "sdist"),
        ("copy demo.tar.gz", "OSError: [Errno 28] No space left on device", "limit"),
        ("unshare", "OSError: [Errno 28] unshare: No space left on device", "internal"),
        ("unshare user", "PermissionError", "internal"),
    ],
)
def test_a_box_that_cannot_be_made_is_told_with_its_step(phase: str, message: str, kind: str):
    error = build_box._not_started(StartError(phase, message), "demo.tar.gz")
    assert error.kind == kind
    assert phase in error.message or kind == "limit"
