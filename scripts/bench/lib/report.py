"""Series, ratios, the table and the JSON that every benchmark writes (DESIGN section 9)."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results here")
    parser.add_argument("--quick", action="store_true", help="few samples: does it run, not how fast it is")
    return parser


def quantile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which `share` of the samples lie (nearest rank)."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def row(name: str, samples: Sequence[float], unit: str = "ms") -> dict[str, Any]:
    """One series as a row."""
    values = sorted(samples)
    return {
        "name": name,
        "unit": unit,
        "n": len(values),
        "min": values[0],
        "p50": quantile(values, 0.50),
        "p95": quantile(values, 0.95),
        "p99": quantile(values, 0.99),
    }


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Ratio of medians of two series that were measured in turn."""
    return quantile(sorted(above), 0.5) / quantile(sorted(below), 0.5)


def host() -> dict[str, Any]:
    """The machine, as far as it explains a figure."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": memory_kb * 1024,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def commit() -> str:
    """The commit the checkout is at, with + when it has changes."""
    try:
        name = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip()


def finish(
    rows: list[dict[str, Any]],
    ratios: Mapping[str, float],
    *,
    parameters: Mapping[str, Any],
    path: Path | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print the table; write the JSON if a path is given."""
    print(f"\n{'':34} {'n':>6} {'min':>9} {'p50':>9} {'p95':>9} {'p99':>9}")
    for r in rows:
        figures = " ".join(f"{r[key]:9.3f}" for key in ("min", "p50", "p95", "p99"))
        print(f"{r['name']:34} {r['n']:6} {figures} {r['unit']}")
    if ratios:
        print("\nratios of medians")
        for name, value in ratios.items():
            print(f"  {name:58} {value:9.2f}")
    for name, value in (more or {}).items():
        if not isinstance(value, (list, dict)):  # these are for the JSON
            print(f"  {name:58} {value}")
    result = {
        "host": host(),
        "commit": commit(),
        "parameters": dict(parameters),
        "rows": rows,
        "ratios": dict(ratios),
        **(more or {}),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {path}")
