"""The attacker's tools, and the table of attacks. Shipped into sandboxes with the attacks: standard library only.

An attack is a function that tries something and returns what it observed; an OSError that it raises is observed as
the name of its errno. The test imports the same modules for the table and never calls the functions.
"""

import ctypes
import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SAME = "(the same)"
NOT_RUN = "(not run)"
Target = dict[str, Any]
"""What the attacker knows of its victim: host pids, uid, ports, keys, and the secret, turned round."""


@dataclass(frozen=True)
class Attack:
    """One row of the table. name: the function's, in words. gain: what the attacker must not get.

    seen: what it observes as a helper and as an executor when it is held. at_import: the same as import-time code
    of a package, in a zygote, which is root of a user namespace of its own; NOT_RUN where that makes no sense.
    answer: status and problem type of the HTTP answer, for an attack that ends its own invocation. ends: whether the
    sandbox ends after an answer that looked well.
    """

    name: str
    gain: str
    act: Callable[[Target], Any]
    seen: Any
    at_import: Any
    answer: tuple[int, str] | None
    ends: bool


ATTACKS: dict[str, Attack] = {}


def attack(
    *, gain: str, seen: Any = None, at_import: Any = SAME, answer: tuple[int, str] | None = None, ends: bool = False
) -> Callable[[Callable[[Target], Any]], Callable[[Target], Any]]:
    """Put a function into the table."""

    def decorate(act: Callable[[Target], Any]) -> Callable[[Target], Any]:
        name = act.__name__.replace("_", " ")
        wanted = seen if at_import == SAME else at_import
        ATTACKS[name] = Attack(name, gain, act, seen, NOT_RUN if answer else wanted, answer, ends)
        return act

    return decorate


def run(name: str, target: Target) -> Any:
    """Carry out one attack; what it observed. Other exceptions than OSError are bugs of the attack."""
    try:
        return ATTACKS[name].act(target)
    except OSError as error:
        return errno.errorcode[error.errno]


_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> int:
    """A system call by number. Raises OSError."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def room(size: int = 256) -> Any:
    """Zeroed memory for a structure."""
    return ctypes.create_string_buffer(size)


def attempt(act: Callable[[], Any]) -> str:
    """`done`, or the name of the errno."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def each(**acts: Callable[[], Any]) -> Any:
    """What several attempts observed: one word if all are alike."""
    seen = {name: attempt(act) for name, act in acts.items()}
    return next(iter(seen.values())) if len(set(seen.values())) == 1 else seen


def held(seen: Any, *wanted: str) -> Any:
    """`held` when every attempt of `each` was refused in one of the wanted ways, else what was seen."""
    words = set(seen.values()) if isinstance(seen, dict) else {seen}
    return "held" if words <= set(wanted) else seen


def in_child(act: Callable[[], Any]) -> Any:
    """Do it in a forked child: what it returned, its errno, or the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                seen = act()
            except OSError as error:
                seen = errno.errorcode[error.errno]
            os.write(writer, json.dumps(seen).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return json.loads(text)


def write(path: str, text: str = "1") -> None:
    """Write to a file that is there. Raises OSError."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def read(path: str, size: int = 65536) -> bytes:
    """The first bytes of a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def secret(target: Target) -> bytes:
    """The victim's secret, which the attacker itself must not hold in memory for longer than a search."""
    return target["terces"][::-1].encode()


def be_dumpable() -> None:
    """Own /proc/self again: a helper begins as root's there, since it changed its uid, and that is no defence."""
    PR_SET_DUMPABLE = 4
    call(157, PR_SET_DUMPABLE, 1, 0, 0, 0)
