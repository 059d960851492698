"""docs/api.md names every operation and every problem."""

from pathlib import Path
from types import SimpleNamespace

from gateway.api.app import make_router
from gateway.api.problems import TABLE

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text()


def test_every_problem_has_its_row():
    for word, (status, title) in TABLE.items():
        assert f"| `{word}` | {status} | {title} |" in PAGE


def test_every_operation_has_its_row():
    services = SimpleNamespace(registry=SimpleNamespace(functions={}))
    for route in make_router(services, None).routes:
        assert route.path == "/" or f"`{route.method} {route.path}" in PAGE, route
