"""One pagurusd for all tests that leave it as it was; others start their own."""

import os
from collections.abc import Iterator

import pytest

from tests import leaks
from tests.node_bed import INSTALLED, state_directory
from tests.pagurusd import Daemon

EXTRA = {"standbys_per_zygote": 2, "drain_s": 5, "queue_per_function": 4, "function_concurrency": 4}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = (
        "needs root" if os.geteuid() != 0 else "" if (INSTALLED / "rootfs").is_dir() else "no base root file system"
    )
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.root)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Iterator[Daemon]:
    """A daemon that tests deploy to under names of their own."""
    with state_directory() as scope, leaks.no_leaks(scope), Daemon(scope, **EXTRA) as daemon:
        assert daemon.process is not None
        leaks.others.add(daemon.process.pid)
        yield daemon
        errors = [line for line in daemon.log().splitlines() if "internal error" in line or "Traceback" in line]
        assert not errors, errors


@pytest.fixture
def fresh() -> Iterator[Daemon]:
    """A daemon of the test's own, ready. Nothing may be left of it, however it ended."""
    with state_directory() as scope, leaks.no_leaks(scope), Daemon(scope, **EXTRA) as daemon:
        yield daemon
