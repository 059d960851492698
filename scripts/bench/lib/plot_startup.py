"""Draws start-up distributions: one panel a function, a line a kind. Reads the samples as JSON on standard input.

A process of its own: matplotlib starts threads, and the benchmark forks.
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> None:
    samples: dict[str, list[float]] = json.load(sys.stdin)
    names = sorted({name.split("/")[1] for name in samples})
    figure, panels = pyplot.subplots(1, len(names), figsize=(5.5 * len(names), 4.5), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for series in sorted(s for s in samples if s.endswith(f"/{name}")):
            values = sorted(samples[series])
            shares = [(index + 1) / len(values) for index in range(len(values))]
            panel.plot(values, shares, label=series.split("/")[0], linewidth=1.3)
        panel.set_xscale("log")
        panel.set_xlabel("request to result, ms")
        panel.set_title(name)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("share of starts")
    panels[0][-1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
