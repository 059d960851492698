"""Draws a replay by policy: cold starts of functions, distribution of start times, memory over time.

Reads the benchmark's result as JSON on standard input. A process of its own: matplotlib starts threads.
"""

import json
import sys
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

MIB = 2**20
HELD = ("idle", "standbys", "zygotes", "base_zygotes")


def draw_cold(panel: Any, result: dict[str, Any]) -> None:
    """Bars of each function that any policy started cold."""
    requests = result["requests"]
    counts = {
        policy: {name: one["cold_starts_after_warmup"] for name, one in each["functions"].items()}
        for policy, each in requests.items()
    }
    names = sorted({name for each in counts.values() for name, count in each.items() if count})
    width = 0.8 / len(counts)
    for place, (policy, each) in enumerate(counts.items()):
        panel.bar([i + place * width for i in range(len(names))], [each.get(n, 0) for n in names], width, label=policy)
    panel.set_xticks([i + 0.4 - width / 2 for i in range(len(names))], names, rotation=75, fontsize=7)
    panel.set_ylabel("cold starts after the warm-up")
    panel.legend(fontsize=8)


def draw_starts(panel: Any, result: dict[str, Any]) -> None:
    """Distribution of the times from arrival to the handler's start, of requests that needed a new sandbox."""
    for policy, times_ms in result["start_ms"].items():
        shares = [(place + 1) / len(times_ms) for place in range(len(times_ms))]
        panel.plot(times_ms, shares, label=policy, linewidth=1.3)
    panel.set_xscale("log")
    panel.set_xlabel("arrival to handler where a sandbox was started, ms")
    panel.set_ylabel("share of starts")
    panel.grid(alpha=0.3)


def draw_memory(panel: Any, result: dict[str, Any]) -> None:
    """What each policy holds for later."""
    for policy, each in result["node"].items():
        series = each["memory_bytes"]
        held = [sum(series[key][i] for key in HELD) / MIB for i in range(len(series["at_s"]))]
        panel.plot(series["at_s"], held, label=policy, linewidth=1.3)
    panel.set_xlabel("s")
    panel.set_ylabel("idle sandboxes, standbys and zygotes, MiB")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)


def main() -> None:
    result = json.load(sys.stdin)
    figure, panels = pyplot.subplots(1, 3, figsize=(17, 4.8))
    for panel, draw in zip(panels, (draw_cold, draw_starts, draw_memory), strict=True):
        draw(panel, result)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
