"""How a build goes on: a stream of events of the gateway, shown as a bar a phase or as lines. Runs in `pagurus`."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import click

from gateway.cli import output
from gateway.cli.client import Answer, ProblemError
from runtime.errors import BuildError

NDJSON = "application/x-ndjson"
REPEAT_S = 10.0  # a step that takes long is said again: it is alive


class Progress(Protocol):
    """Where the steps of a build are shown."""

    def show(self, phase: str, message: str, fraction: float | None) -> None: ...


def follow(answer: Answer, key: str, *, as_json: bool) -> dict[str, Any]:
    """Show an answer's progress to its end; what it carries under `key`. Nothing is shown for JSON.

    A gateway or proxy that does not stream answers with the result alone. Raises ProblemError, BuildError,
    UnreachableError.
    """
    if answer.status not in (200, 201):
        raise answer.problem()
    if answer.content_type != NDJSON:
        document = json.loads(answer.read())
        return dict(document.get(key, document))
    with _Bars() if output.is_terminal() and not as_json else _Lines(silent=as_json) as progress:
        return _follow(answer.lines(), key, progress)


def _follow(events: Iterator[dict[str, Any]], key: str, progress: Progress) -> dict[str, Any]:
    for event in events:
        kind = event.get("event")
        if kind == "progress":
            progress.show(str(event.get("phase", "")), str(event.get("message", "")), event.get("fraction"))
        elif kind == "done":
            return dict(event[key])
        elif kind == "problem":
            document = event["problem"] if isinstance(event.get("problem"), dict) else event
            raise ProblemError(int(document.get("status", 500)), document)
    raise BuildError("internal", "the gateway ended its answer before the build was done", hint="see pagurusd's log")


class _Lines(AbstractContextManager["_Lines"]):
    """Progress as lines, for pipes and log files; none at all when silent."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._last = ""
        self._said_s = 0.0

    def show(self, phase: str, message: str, fraction: float | None) -> None:
        line, now_s = f"  {phase}: {message}", time.monotonic()
        if not self._silent and (line != self._last or now_s - self._said_s > REPEAT_S):
            click.echo(output.plain(line))
            self._last, self._said_s = line, now_s

    def __exit__(self, *_: object) -> None:
        return None


class _Bars(AbstractContextManager["_Bars"]):
    """Progress as a bar a phase, for a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[phase]:<14}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._phase = ""
        self._task: Any = None

    def __enter__(self) -> "_Bars":
        self._bars.start()
        return self

    def show(self, phase: str, message: str, fraction: float | None) -> None:
        if phase != self._phase:
            self._finish()
            self._phase, self._task = phase, self._bars.add_task("", total=None, phase=output.plain(phase))
        known: dict[str, Any] = {} if fraction is None else {"total": 1.0, "completed": fraction}
        self._bars.update(self._task, description=output.plain(message), **known)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, total=1.0, completed=1.0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()
