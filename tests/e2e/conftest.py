"""The daemon that the tests of one module share; those that end theirs start their own."""

from collections.abc import Iterator

import pytest

from tests.e2e_daemon import Daemon, new_daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Ready. Stopped after the module's last test, with the leak check."""
    with new_daemon() as started:
        yield started
