"""Uid ranges and uids: handed out once, the longest unused first."""

import contextlib
import fcntl
import os
import resource
import subprocess

import pytest

from runtime.errors import PoolExhaustedError
from runtime.sandbox import identity
from runtime.sandbox.identity import FIRST_SANDBOX_UID, RANGE, SandboxUids, UidRanges


def test_ranges_do_not_overlap_and_the_longest_unused_is_next():
    ranges = UidRanges(1_000_000, 3)
    first, second = ranges.acquire(), ranges.acquire()
    assert (first, second) == (1_000_000, 1_000_000 + RANGE)
    ranges.release(first)
    assert ranges.acquire() == 1_000_000 + 2 * RANGE
    assert ranges.acquire() == first
    with pytest.raises(PoolExhaustedError, match="3 zygotes are alive"):
        ranges.acquire()


def test_uids_of_living_sandboxes_differ(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "SANDBOX_UIDS", 4)
    uids = SandboxUids()
    taken = [uids.acquire() for _ in range(4)]
    assert taken == [FIRST_SANDBOX_UID + index for index in range(4)]
    with pytest.raises(PoolExhaustedError):
        uids.acquire()
    uids.release(taken[2])
    assert uids.acquire() == taken[2]


def test_sandbox_uids_fit_into_a_range_and_leave_the_distributions_users_alone():
    assert FIRST_SANDBOX_UID >= 1000
    assert FIRST_SANDBOX_UID + identity.SANDBOX_UIDS <= RANGE


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000, reason="few files may be open here")
def test_the_end_of_a_process_is_seen_on_any_descriptor():
    with contextlib.ExitStack() as stack:
        pidfds = []
        child = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        for pid in (os.getpid(), child.pid):
            low = os.pidfd_open(pid)
            pidfds.append(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500))
            os.close(low)
            stack.callback(os.close, pidfds[-1])
        assert [identity.has_ended(pidfd) for pidfd in pidfds] == [False, False]
        child.communicate()
        assert [identity.has_ended(pidfd) for pidfd in pidfds] == [False, True]
