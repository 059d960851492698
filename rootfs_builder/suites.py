"""The suite of a runtime that somebody named. Runs in the builder."""

from runtime.errors import BuildError
from runtime.model import RuntimeName
from runtime.suites import SUITES, Suite

__all__ = ["SUITES", "Suite", "suite_of"]


def suite_of(runtime: str) -> Suite:
    """Raises BuildError of kind `base` that lists the known ones."""
    try:
        return SUITES[RuntimeName(runtime)]
    except KeyError:
        raise BuildError("base", f"unknown runtime {runtime!r}", hint=f"choose one of {', '.join(SUITES)}") from None
