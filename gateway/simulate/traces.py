"""Traces of applications' calls: who is invoked when, and for how long. Reads files, in `pagurus simulate`.

Two kinds of files are known: calls of applications per second (the paper's artefact), here, and the Azure Functions
traces of 2019, in gateway.simulate.azure. Whatever chance is in it comes from the seed alone.
"""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from random import Random

from gateway.simulate.applications import Applications
from runtime.errors import ConfigError
from runtime.model import FunctionName

COLUMNS = ("application", "second", "calls")
CALLS_MAX = 1_000_000  # in one second or minute: more is a broken file


@dataclass(frozen=True, slots=True)
class Arrival:
    """One invocation: of which function, when, and how long its handler runs."""

    at_s: float
    function: FunctionName
    service_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """All invocations in the order of time. memory_bytes: of an idle sandbox that imported all itself, if known."""

    arrivals: list[Arrival]
    memory_bytes: dict[FunctionName, int] = field(default_factory=dict)

    @property
    def functions(self) -> list[FunctionName]:
        """Names, each once, sorted."""
        return sorted({arrival.function for arrival in self.arrivals})

    def at_speed(self, speed: float) -> "Trace":
        """The same calls in a `speed`-th of the time, each as long as before."""
        if speed == 1.0:
            return self
        return replace(self, arrivals=[replace(call, at_s=call.at_s / speed) for call in self.arrivals])


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line of a CSV file, gzipped if it is called .gz. Raises ConfigError."""
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                yield reader.line_num, cells
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no CSV file: {error}") from error


def header_of(path: Path) -> list[str]:
    """The first line's cells. Raises ConfigError."""
    for _, cells in rows_of(path):
        return cells
    raise ConfigError(f"{path} is empty")


def read_calls(path: Path, applications: Applications, *, time_scale: float, seed: int) -> Trace:
    """Calls of applications per second: `application,second,calls`, seconds without calls may be absent.

    Calls within one second are spread evenly, with a phase of their own. Each invokes all functions of the
    application: offsets and durations are multiplied by time_scale, the trace's seconds are not. Raises ConfigError
    that names the line.
    """
    random = Random(f"{seed}/phases")
    rows = rows_of(path)
    _, header = next(rows, (0, []))
    if tuple(header) != COLUMNS:
        raise ConfigError(f"{path} must begin with the line {','.join(COLUMNS)}")
    arrivals: list[Arrival] = []
    for line, cells in rows:
        application, second, calls = _call_row(path, line, cells)
        if application not in applications:
            raise ConfigError(f"{path}:{line}: application {application!r} is not among the applications")
        phase = random.random()
        for number in range(calls):
            called_s = second + (number + phase) / calls
            for step in applications[application]:
                at_s = called_s + step.start_offset_s * time_scale
                arrivals.append(Arrival(at_s, step.function, step.duration_s * time_scale))
    return Trace(in_order(arrivals))


def in_order(arrivals: list[Arrival]) -> list[Arrival]:
    """By time; at the same time as they were read."""
    arrivals.sort(key=attrgetter("at_s"))
    return arrivals


def whole(path: Path, line: int, text: str, what: str, most: int = CALLS_MAX) -> int:
    """A cell that holds a whole number from 0 on. Raises ConfigError that names the line."""
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise ConfigError(f"{path}:{line}: {what} is {text[:40]!r}, it must be a whole number up to {most}")
    return int(text)


def _call_row(path: Path, line: int, cells: list[str]) -> tuple[str, int, int]:
    if len(cells) != len(COLUMNS):
        raise ConfigError(f"{path}:{line}: {len(cells)} cells, there must be {len(COLUMNS)}")
    return cells[0], whole(path, line, cells[1], "second", 10**9), whole(path, line, cells[2], "calls")
