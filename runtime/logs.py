"""Log lines for operators: `key=value` on stderr, the same in all processes. A leaf.

The ids of a line go in `extra`: `log.info("died", extra={"sandbox": id})`.
"""

import json
import logging
import sys
import time
from typing import TextIO

FIELDS = ("sandbox", "zygote", "function", "invocation", "build")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,+@%")


class KeyValueFormatter(logging.Formatter):
    """One line a record: time, level, logger, message, then the ids that the record has."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = [
            f"time={moment}.{int(record.msecs):03d}Z",
            f"level={record.levelname.lower()}",
            f"logger={record.name}",
            f"msg={_quoted(record.getMessage())}",
        ]
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                parts.append(f"{name}={_quoted(str(value))}")
        if record.exc_info:
            parts.append(f"trace={_quoted(self.formatException(record.exc_info))}")
        return " ".join(parts)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send all records of `level` (debug, info, warning, error) and above to `stream`, stderr if None."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _quoted(text: str) -> str:
    return text if text and _PLAIN.issuperset(text) else json.dumps(text, ensure_ascii=False)
