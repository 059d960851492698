"""Tests of the systemd service in a machine that is the tests' own (scripts/test-vm). Elsewhere they are skipped."""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("PAGURUS_TEST_MACHINE") == "own":
        return
    for item in items:
        if "vm" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="changes the machine's services: scripts/test-vm runs it"))
