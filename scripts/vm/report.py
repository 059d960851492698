"""Judges a virtual machine's results: says what failed and, as the last line, how many tests passed, as pytest does.

    report.py RESULTS     the folder that the machine's third disk held

A missing or unfinished result is a failure, and so is a skipped test: the machine has all that a test can want.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree  # of a file that our own pytest wrote

FAULTS = {"skipped": "skipped", "failure": "failed", "error": "error"}  # junit's tags -> pytest's words
EXPECTED = "pytest.xfail"  # junit's type of a failure that is known; one that passes after all is a failure
VERDICT = re.compile(r"=+ .*\b(passed|failed|errors?|skipped|xfailed)\b.* =+")
NO_VERDICT = "= 1 error ="  # of a machine that came to none: what is read as a verdict must not be an earlier run's
REASON_CHARACTERS = 200


def faults(results: Path) -> list[str]:
    """Why this is not a success; nothing when it is one."""
    status = _text(results / "status").strip()
    found = [] if status == "0" else [f"pytest ended with status {status}" if status else "there is no result"]
    try:
        cases = list(ElementTree.parse(results / "junit.xml").getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        return [*found, f"its junit.xml cannot be read: {error}"]
    if not cases:
        found.append("no test was run")
    for case in cases:
        for element in case:
            if element.tag in FAULTS and element.get("type") != EXPECTED:
                reason = (element.get("message") or "").partition("\n")[0][:REASON_CHARACTERS]
                found.append(f"{FAULTS[element.tag]}: {case.get('classname')}::{case.get('name')}: {reason}")
    return found


def verdict(results: Path) -> str:
    """pytest's own last line, or NO_VERDICT."""
    lines = [line for line in _text(results / "pytest.log").splitlines() if VERDICT.fullmatch(line)]
    return lines[-1] if lines else NO_VERDICT


def failures(results: Path) -> str:
    """What pytest says of tests that failed; '' when none did."""
    log = _text(results / "pytest.log")
    found = re.search(r"^=+ (FAILURES|ERRORS) =+$", log, re.MULTILINE)
    return log[found.start() :] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def main() -> int:
    results = Path(sys.argv[1])
    why = faults(results)
    print(failures(results), end="")
    for line in why:
        print(f"  {line}")
    machine = ", ".join(_text(results / "machine").splitlines()) or "the machine did not say what it is"
    print(f"  {machine}; {_text(results / 'seconds').strip() or '?'} s of its time")
    last = verdict(results)
    # Skips alone are no failure to pytest; here they are, and the last line must not say otherwise.
    print(last if not why or "failed" in last or "error" in last else NO_VERDICT)
    return 1 if why else 0


if __name__ == "__main__":
    sys.exit(main())
