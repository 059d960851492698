"""One row a request, for other programs."""

import csv
from collections.abc import Iterable
from typing import TextIO

from gateway.replay.outcomes import PHASES, Outcome

COLUMNS = ("arrival_s", "function", "start_kind", "status", "failure", "start_ms", "end_to_end_ms", "late_ms")


def write_csv(file: TextIO, outcomes: Iterable[Outcome]) -> None:
    """Columns, then a row for each outcome in the order of arrival; an empty cell is a phase that did not happen."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{phase}_ms" for phase in PHASES)])
    for one in sorted(outcomes, key=lambda one: one.at_s):
        figures = (one.start_ms, one.end_to_end_ms, one.late_ms, *(one.phases_ms.get(phase) for phase in PHASES))
        cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
        writer.writerow([f"{one.at_s:.4f}", one.function, one.kind or "none", one.status, one.failure, *cells])
