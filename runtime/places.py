"""Whom the folders and files that steer pagurusd belong to: nobody but root may change them. Runs in pagurusd.

Who can write to a folder, or to one above it, can put another in its place, and with that choose what root does.
"""

import os
import stat
from pathlib import Path

from runtime.errors import ConfigError

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def make(path: Path, mode: int) -> None:
    """A folder of ours with exactly this mode; made with those above it if need be.

    Raises ConfigError, with the fix, when it or one above it is another user's or others can write to it.
    """
    _check_above(path)
    path.mkdir(parents=True, exist_ok=True, mode=0o755)
    _check_above(path.resolve())  # it may be a link
    _check(path, os.stat(path), f"chown root:root {path} && chmod {mode:04o} {path}")
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder", hint="name another one, or move it away")
    os.chmod(path, mode)


def check_file(path: Path) -> None:
    """Raises ConfigError when others could change a file that root heeds. One that is not there is fine."""
    try:
        found = os.stat(path)
    except OSError:
        return  # who reads it says so
    _check(path, found, f"chown root:root {path} && chmod 0600 {path}")
    _check_above(path.resolve())


def _check_above(path: Path) -> None:
    for parent in reversed(path.parents):
        try:
            found = os.stat(parent)
        except FileNotFoundError:
            return
        if not found.st_mode & stat.S_ISVTX:  # /tmp: others cannot rename what is not theirs
            _check(parent, found, f"chown root:root {parent} && chmod go-w {parent}, or choose a folder elsewhere")


def _check(path: Path, found: os.stat_result, fix: str) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path} belongs to user {found.st_uid}, who could change what pagurusd does", hint=fix)
    if found.st_mode & _WRITABLE:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(f"{path} has mode {mode:04o}: others could change what pagurusd does", hint=fix)
