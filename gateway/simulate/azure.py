"""The Azure Functions traces of 2019, and small sets of their shape. Reads and writes files, in `pagurus simulate`.

The schema is that of "Serverless in the Wild" (Shahrad et al., ATC 2020): invocations per function and minute,
durations by function, memory by application. The files are the user's own.
"""

import csv
import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gateway.simulate.traces import Arrival, Trace, header_of, in_order, rows_of, whole
from runtime.errors import ConfigError
from runtime.model import MIB, FunctionName

KEYS = ("HashOwner", "HashApp", "HashFunction")
SHARES = (0, 1, 25, 50, 75, 99, 100)  # percentiles that the durations' file has
MEMORY_COLUMN = "AverageAllocatedMb"
SPREADS = ("exponential", "even")
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Durations:
    """How long a function runs: milliseconds at SHARES of its invocations, or the mean alone."""

    mean_ms: float
    points_ms: tuple[float, ...] = ()

    def draw_s(self, random: Random) -> float:
        """One duration: between the percentiles each value is equally likely."""
        if not self.points_ms:
            return self.mean_ms / 1000
        share = random.random() * 100
        above = min(bisect_right(SHARES, share), len(SHARES) - 1)
        low, high = SHARES[above - 1], SHARES[above]
        start_ms, end_ms = self.points_ms[above - 1], self.points_ms[above]
        return (start_ms + (end_ms - start_ms) * (share - low) / (high - low)) / 1000


def is_azure(path: Path) -> bool:
    """Whether a trace has this schema, by its first line."""
    return tuple(header_of(path)[: len(KEYS)]) == KEYS


def read(path: Path, durations: Path, memory: Path | None, *, seed: int, spread: str = "exponential") -> Trace:
    """Invocations of the minutes in `path`; functions without a duration are left out, as in other uses of the set.

    spread: of the invocations in their minute, `even` or as those of a Poisson process. Raises ConfigError that names
    file and line.
    """
    known = _read_durations(durations)
    by_app = _read_memory(memory) if memory else {}
    columns, rows = _table(path, (*KEYS, "Trigger"))
    minutes = [number for number, name in enumerate(columns) if name.isdigit()]
    if not minutes:
        raise ConfigError(f"{path} has no columns of minutes (1, 2, …)")
    arrivals: list[Arrival] = []
    memory_bytes: dict[FunctionName, int] = {}
    for line, row, cells in rows:
        lasting = known.get(row["HashFunction"])
        if lasting is None:
            continue
        name = name_of(row["HashFunction"])
        random = Random(f"{seed}/{row['HashFunction']}")
        for column in minutes:
            count = whole(path, line, cells[column], f"minute {columns[column]}")
            began_s = (int(columns[column]) - 1) * MINUTE_S
            arrivals += [
                Arrival(began_s + at_s, name, lasting.draw_s(random)) for at_s in _within(count, random, spread)
            ]
            if count and row["HashApp"] in by_app:
                memory_bytes[name] = by_app[row["HashApp"]]
    return Trace(in_order(arrivals), memory_bytes)


def name_of(hashed: str) -> FunctionName:
    """A name that Pagurus takes for a function of the trace: equal hashes, equal names."""
    return FunctionName("f-" + hashlib.sha256(hashed.encode()).hexdigest()[:16])


def _within(count: int, random: Random, spread: str) -> Iterator[float]:
    """Seconds within a minute at which `count` invocations come."""
    if not count:
        return
    if spread == "even":
        phase = random.random()
        for number in range(count):
            yield (number + phase) * MINUTE_S / count
        return
    # Exponential gaps, scaled so that exactly `count` fit: the order statistics of a Poisson process's minute.
    gaps = [random.expovariate(1.0) for _ in range(count + 1)]
    total, at = sum(gaps), 0.0
    for gap in gaps[:-1]:
        at += gap
        yield at / total * MINUTE_S


def _table(path: Path, wanted: Sequence[str]) -> tuple[list[str], Iterator[tuple[int, dict[str, str], list[str]]]]:
    """Columns, and per line: its number, the wanted cells by name, all cells."""
    rows = rows_of(path)
    _, columns = next(rows, (0, []))
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}")

    def lines() -> Iterator[tuple[int, dict[str, str], list[str]]]:
        places = {name: columns.index(name) for name in wanted}
        for line, cells in rows:
            if len(cells) != len(columns):
                raise ConfigError(f"{path}:{line}: {len(cells)} cells, the first line has {len(columns)}")
            yield line, {name: cells[place] for name, place in places.items()}, cells

    return columns, lines()


def _read_durations(path: Path) -> dict[str, Durations]:
    names = [f"percentile_Average_{share}" for share in SHARES]
    wanted = ["HashFunction", "Average", *(names if set(names) <= set(header_of(path)) else ())]
    _, rows = _table(path, wanted)
    found = {}
    for line, row, _ in rows:
        figures = [_number(path, line, row[name], name) for name in wanted[1:]]
        points = tuple(figures[1:])
        if list(points) != sorted(points):
            raise ConfigError(f"{path}:{line}: the percentiles do not rise")
        found[row["HashFunction"]] = Durations(figures[0], points)
    return found


def _read_memory(path: Path) -> dict[str, int]:
    _, rows = _table(path, ("HashApp", MEMORY_COLUMN))
    return {row["HashApp"]: int(_number(path, line, row[MEMORY_COLUMN], MEMORY_COLUMN) * MIB) for line, row, _ in rows}


def _number(path: Path, line: int, text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{path}:{line}: {what} is {text[:40]!r}, it must be a number from 0 on")
    return value


# --- sets of this shape ------------------------------------------------------------------------------------------

RATE_EXPONENT = 0.5  # of the Pareto distribution of calls per day: few functions have nearly all calls
CALLS_A_DAY_MIN = 1.0
CALLS_A_MINUTE_MAX = 120.0
TIMER_SHARE, BURST_SHARE = 0.3, 0.2
TIMER_PERIODS_MIN = (1, 5, 15, 30, 60, 60, 1440)
BURST_FACTOR = 8.0


def synthesize(folder: Path, *, functions: int, minutes: int, seed: int) -> dict[str, Path]:
    """Write invocations.csv, durations.csv and memory.csv to `folder`; their paths.

    Rates have a heavy tail; of the functions 30 % are timers, 20 % get their calls in bursts, the rest as they come.
    """
    random = Random(f"{seed}/synthesize")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.csv" for name in ("invocations", "durations", "memory")}
    counts, lasting, memory = [], [], {}
    for _ in range(functions):
        owner, app, function = (f"{random.getrandbits(256):064x}" for _ in KEYS)
        trigger, per_minute = _draw_counts(random, minutes)
        counts.append([owner, app, function, trigger, *per_minute])
        lasting.append([owner, app, function, *_draw_durations(random, sum(per_minute))])
        memory[owner, app] = round(min(1500.0, random.lognormvariate(math.log(120), 0.6)))
    percentiles = [f"percentile_Average_{share}" for share in SHARES]
    _write(paths["invocations"], [*KEYS, "Trigger", *range(1, minutes + 1)], counts)
    _write(paths["durations"], [*KEYS, "Average", "Count", "Minimum", "Maximum", *percentiles], lasting)
    apps = [[owner, app, 1, size] for (owner, app), size in memory.items()]
    _write(paths["memory"], [*KEYS[:2], "SampleCount", MEMORY_COLUMN], apps)
    return paths


def _draw_counts(random: Random, minutes: int) -> tuple[str, list[int]]:
    share = random.random()
    if share < TIMER_SHARE:
        period = random.choice(TIMER_PERIODS_MIN)
        phase = random.randrange(period)
        return "timer", [int(minute % period == phase) for minute in range(minutes)]
    a_minute = min(CALLS_A_DAY_MIN * random.paretovariate(RATE_EXPONENT) / 1440, CALLS_A_MINUTE_MAX)
    if share >= TIMER_SHARE + BURST_SHARE:
        return "http", [_poisson(random, a_minute) for _ in range(minutes)]
    found, is_burst = [], False
    for _ in range(minutes):
        # Of the time a share of 1 / (2 * BURST_FACTOR) is bursts; between them nearly nothing comes.
        is_burst = random.random() < (0.7 if is_burst else 0.3 / (2 * BURST_FACTOR))
        found.append(_poisson(random, a_minute * (BURST_FACTOR if is_burst else 0.2)))
    return "queue", found


def _draw_durations(random: Random, count: int) -> list[object]:
    median_ms = min(60_000.0, random.lognormvariate(math.log(600), 1.4))
    factors = (0.4, 0.5, 0.8, 1.0, 1.3, 3.0, 5.0)
    points = [round(median_ms * factor, 1) for factor in factors]
    return [round(median_ms * 1.15, 1), count, points[0], points[-1], *points]


def _poisson(random: Random, mean: float) -> int:
    """By exponential gaps: exact, and fast for the means that there are."""
    count, at = 0, random.expovariate(1.0)
    while at < mean:
        count += 1
        at += random.expovariate(1.0)
    return count


def _write(path: Path, columns: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
