"""What scripts/test-vm does outside its machine: the judgement of results, the unpacking of a kernel."""

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

VM = Path(__file__).resolve().parents[3] / "scripts/vm"
PASSED = "============ 2 passed in 3.10s ============"
FAILED = "============ 1 failed, 1 passed in 3.10s ============"
GOOD = '<testcase classname="tests.vm.a" name="b"/>'
CASE = '<testcase classname="tests.vm.a" name="b">{}</testcase>'


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"vm_{name}", VM / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(results: Path, *, status="0", cases=(GOOD, GOOD), log=PASSED) -> Path:
    (results / "status").write_text(f"{status}\n")
    (results / "junit.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    (results / "pytest.log").write_text(f"collected 2 items\n{log}\n")
    (results / "machine").write_text("Linux 6.1\nsystemd 252\n")
    (results / "seconds").write_text("84.2\n")
    return results


def judged(results: Path):
    done = subprocess.run(
        [sys.executable, "-I", VM / "report.py", results], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_tests_that_passed_are_a_success_and_pytest_has_the_last_word(tmp_path):
    status, lines = judged(write(tmp_path))
    assert (status, lines[-1]) == (0, PASSED)
    assert lines[-2] == "  Linux 6.1, systemd 252; 84.2 s of its time"


def test_a_failed_test_is_named_with_its_reason(tmp_path):
    failing = CASE.format('<failure message="assert 1 == 2&#10;more">text</failure>')
    log = f"==== FAILURES ====\nthe traceback\n{FAILED}"
    status, lines = judged(write(tmp_path, status="1", cases=[failing], log=log))
    assert (status, lines[-1]) == (1, FAILED)
    assert "the traceback" in lines and "  failed: tests.vm.a::b: assert 1 == 2" in lines


def test_a_skipped_test_is_a_failure_and_the_last_line_does_not_say_passed(tmp_path):
    skipped = CASE.format('<skipped message="needs root"/>')
    status, lines = judged(write(tmp_path, cases=[skipped, GOOD], log="=== 1 passed, 1 skipped in 1s ==="))
    assert (status, lines[-1]) == (1, "= 1 error =")
    assert "  skipped: tests.vm.a::b: needs root" in lines


def test_a_failure_that_is_expected_is_none(tmp_path):
    known = CASE.format('<skipped type="pytest.xfail" message="waits for something"/>')
    assert judged(write(tmp_path, cases=[known, GOOD], log="=== 1 passed, 1 xfailed in 1s ==="))[0] == 0


@pytest.mark.parametrize("name", ["status", "junit.xml"])
def test_a_missing_result_is_a_failure(tmp_path, name):
    (write(tmp_path) / name).unlink()
    status, lines = judged(tmp_path)
    assert (status, lines[-1]) == (1, "= 1 error =")


def test_a_machine_that_wrote_nothing_is_a_failure(tmp_path):
    status, lines = judged(tmp_path)
    assert (status, lines[-1]) == (1, "= 1 error =")
    assert "  there is no result" in lines


def test_no_test_at_all_is_a_failure(tmp_path):
    assert judged(write(tmp_path, cases=[]))[0] == 1


def test_a_kernel_is_unpacked_whatever_stands_around_it(monkeypatch):
    unpack_kernel = load("unpack_kernel")
    monkeypatch.setattr(unpack_kernel, "LEAST_BYTES", 1000)
    kernel = b"\x7fELF" + bytes(range(256)) * 8
    small = gzip.compress(b"\x7fELF, but a table", mtime=0)
    assert unpack_kernel.unpack(b"MZ" + small + bytes(9) + gzip.compress(kernel, mtime=0) + b"signature") == kernel
    assert unpack_kernel.unpack(b"MZ" + small) is None
