"""The document of a replay with where it ran, and the same for people."""

import os
import platform
from collections.abc import Iterator
from typing import Any

import psutil

from gateway.replay.summary import Json, Replay, document

_SHOWN = ("min", "p50", "p95", "p99")


def make_document(replay: Replay, status: Json, parameters: Json) -> Json:
    """status: of the node. Its version stands for the commit, which an installed node does not know."""
    parameters = {**parameters, "policy": status.get("policy"), "limits": status.get("limits", {})}
    return document(replay, host=_host(), commit=str(status.get("version", "unknown")), parameters=parameters)


def describe(found: Json) -> Iterator[str]:
    """Lines of a table: latencies, then counts."""
    requests, node = found["requests"], found["node"]
    yield f"{'':44} {'n':>7} " + " ".join(f"{name:>9}" for name in _SHOWN)
    for row in found["rows"]:
        yield f"{row['name']:44} {row['n']:7} " + " ".join(f"{row[name]:9.3f}" for name in _SHOWN) + f" {row['unit']}"
    yield ""
    counts = ", ".join(f"{count} {kind}" for kind, count in requests["start_kinds"].items() if count)
    yield f"after the warm-up: {requests['counted']} requests: {counts or 'none'}"
    yield f"cold starts after the warm-up: {requests['cold_starts_after_warmup']}"
    for word, count in requests["failures"].items():
        yield f"failed: {count} {word}"
    held = ", ".join(f"{key.replace('_', ' ')} {_figure(value)}" for key, value in node["held_gb_s"].items())
    yield f"memory, GB x s: {held}; held for later {_figure(node['held_gb_s_total'])}"
    yield (
        f"package zygotes: {node['zygotes_made']} made in {node['zygote_making_s']:g} s"
        f" ({node['zygotes_made_before']} of them before the replay);"
        f" {node['zygotes_that_never_helped']} never helped: {node['wrong_help_making_s']:g} s,"
        f" {_figure(node['wrong_help_gb_s'])} GB x s"
    )
    late = requests["late_ms_p99"]
    yield f"the sender was {late} ms late at p99" if late is not None else "nothing was sent"


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _host() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
