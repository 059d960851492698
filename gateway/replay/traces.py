"""Reads traces of calls: the paper's AWS applications, and the Azure Functions trace of 2019. Files may be gzipped."""

import csv
import gzip
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from gateway.replay.calls import Call
from runtime.errors import PagurusError

MINUTE_S = 60.0
AZURE_KEY = ("HashOwner", "HashApp", "HashFunction")
AZURE_DEFAULT_S = 1.0  # of a function that the file of durations does not have


class TraceError(PagurusError):
    """A file is no trace of this format."""


def read_aws(trace: Path, applications: Path, *, time_scale: float = 1.0) -> Iterator[Call]:
    """A call of an application calls each of its functions, at its offset. Rows: application,second,calls.

    time_scale: of offsets and durations, not of arrivals. Raises TraceError, OSError.
    """
    try:
        known = {
            application: [
                (name, one["start_offset_s"] * time_scale, one["duration_s"] * time_scale)
                for name, one in functions.items()
            ]
            for application, functions in json.loads(applications.read_text()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{applications.name} has not the form of applications.json: {error}") from error
    with _rows(trace, {"application", "second", "calls"}) as rows:
        for row in rows:
            try:
                functions, second, calls = known[row["application"]], float(row["second"]), int(row["calls"])
            except (KeyError, ValueError) as error:
                raise TraceError(f"{trace.name}, line {rows.line_num}: {error}") from error
            for _ in range(calls):
                for name, offset_s, duration_s in functions:
                    yield Call(second + offset_s, name, duration_s)


def read_azure(
    invocations: Path, durations: Path | None = None, *, time_scale: float = 1.0, seed: int = 0
) -> Iterator[Call]:
    """One day: a row a function, its calls of each minute 1 to 1440 evenly in it, at a phase drawn for each.

    durations: the percentiles' file of the same day; a call takes the function's average. Raises TraceError, OSError.
    """
    average_s = _averages(durations) if durations else {}
    drawn = random.Random(seed)  # noqa: S311
    with _rows(invocations, {*AZURE_KEY, "1", "1440"}) as rows:
        for row in rows:
            key = _azure_name(row)
            duration_s = average_s.get(key, AZURE_DEFAULT_S) * time_scale
            for minute in range(1, 1441):
                try:
                    count = int(row[str(minute)] or 0)
                except (ValueError, TypeError, KeyError) as error:
                    raise TraceError(f"{invocations.name}, line {rows.line_num}: {error}") from error
                phase = drawn.random()
                for number in range(count):
                    yield Call((minute - 1 + (number + phase) / count) * MINUTE_S, key, duration_s)


def _averages(durations: Path) -> dict[str, float]:
    with _rows(durations, {*AZURE_KEY, "Average"}) as rows:
        try:
            return {_azure_name(row): float(row["Average"]) / 1000 for row in rows}
        except ValueError as error:
            raise TraceError(f"{durations.name}, line {rows.line_num}: {error}") from error


def _azure_name(row: dict[str, str]) -> str:
    return "-".join(row[part][:12] for part in AZURE_KEY)


@contextmanager
def _rows(path: Path, wanted: set[str]) -> Iterator["csv.DictReader[str]"]:
    with _open(path) as file:
        try:
            rows = csv.DictReader(file)
            missing = sorted(wanted - set(rows.fieldnames or ()))
            if missing:
                raise TraceError(f"{path.name} has no column {', '.join(missing)}")
            yield rows
        except (csv.Error, UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise TraceError(f"{path.name} cannot be read: {error}") from error


def _open(path: Path) -> TextIO:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")
