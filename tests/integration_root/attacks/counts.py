"""Attacks on what the kernel counts by user, and so for all sandboxes and the host's root together.

Runs inside a sandbox. What is taken is held, so that the victim and the host are asked while it is. `is_left` runs
in the victim and on the host.
"""

import ctypes
import itertools
import os

from .attacker import Target, attack, call

_SOME = 100_000
_INOTIFY_INIT1, _INOTIFY_ADD_WATCH, _TIMER_CREATE, _TIMER_DELETE, _MQ_OPEN, _MQ_UNLINK = 294, 254, 222, 226, 240, 241
_held = []


def _take(target: Target, act) -> list:
    """How many of it one sandbox gets, and the errno at the end."""
    found, end = [], "no end"
    try:
        for _ in range(_SOME):
            found.append(act())
    except OSError as error:
        end = os.strerror(error.errno)
    if not target.get("in_zygote"):  # one that keeps descriptors and timers is refused, see test_hostile_packages.py
        _held.extend(found)
    return [len(found), end]


@attack(gain="all inotify instances of root and of all sandboxes", seen=[16, "Too many open files"])
def use_up_inotify_instances(target: Target):
    return _take(target, lambda: _Open(call(_INOTIFY_INIT1, 0)))


@attack(gain="all inotify watches", seen="No space left on device")
def use_up_inotify_watches(target: Target):
    there = (os.path.join(folder, name) for folder, _, names in os.walk("/") for name in ("", *names))
    here = _held[0] if _held else _Open(call(_INOTIFY_INIT1, 0))
    own: list[str] = []
    watches = 0
    try:
        for path in itertools.chain(there, _made(own)):
            try:
                watches = call(_INOTIFY_ADD_WATCH, here.fd, os.fsencode(path), 0x2)
            except (FileNotFoundError, PermissionError):
                continue
            except OSError as error:
                return os.strerror(error.errno)
        return f"no end of {watches}"
    finally:
        for path in own:
            os.unlink(path)


def _made(own: list[str]):
    """Files of its own, where the others are too few: each has to be there to be watched."""
    for number in range(4000):
        path = f"/tmp/watched{number}"
        try:
            os.mkfifo(path, 0o600)
        except OSError:
            return
        own.append(path)
        yield path


@attack(gain="all timers and queued signals", seen=[1024, "Resource temporarily unavailable"])
def use_up_timers_and_queued_signals(target: Target):
    return _take(target, _Timer)


@attack(gain="all bytes of message queues", seen="ENOSYS")
def use_up_message_queues(target: Target):
    return call(_MQ_OPEN, b"queue", os.O_CREAT | os.O_RDWR, 0o600, None)


class _Open:
    """A descriptor, closed with its last reference."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class _Timer:
    """A POSIX timer, deleted with its last reference."""

    def __init__(self) -> None:
        number = ctypes.c_int()
        call(_TIMER_CREATE, 1, None, ctypes.byref(number))
        self._number = number.value

    def __del__(self) -> None:
        if "_number" in vars(self):
            call(_TIMER_DELETE, self._number)


def is_left() -> bool:
    """Whether the caller still gets one of each. Message queues are for the host: sandboxes have none."""
    os.close(call(_INOTIFY_INIT1, 0))
    timer = ctypes.c_int()
    call(_TIMER_CREATE, 1, None, ctypes.byref(timer))
    call(_TIMER_DELETE, timer.value)
    return True


def is_left_on_the_host() -> bool:
    """The same for root, with a message queue."""
    name = b"pagurus-attacks-%d" % os.getpid()
    os.close(call(_MQ_OPEN, name, os.O_CREAT | os.O_RDWR, 0o600, None))
    call(_MQ_UNLINK, name)
    return is_left()
