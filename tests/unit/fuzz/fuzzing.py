"""Hostile bytes: what every parser of them is tried with, and how long.

Property of all: a value, or an error of ours; no other exception, no hang, no memory beyond the input's size.
PAGURUS_FUZZ multiplies the examples: 1 is a few seconds for all, 100 some minutes.
"""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("PAGURUS_FUZZ", "1"))
Test = TypeVar("Test", bound=Callable[..., Any])


def examples(count: int) -> Callable[[Test], Test]:
    """Settings of a fuzz test: `count` examples, times PAGURUS_FUZZ."""
    return settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=list(HealthCheck))


# Values that break what only looks like a check: sizes past 64 bits, infinities, deep nests, odd texts.
_NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, float("inf")])
)
_TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["", "\0", "../..", "é\ud800", "-", "\n", "'"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_TEXTS, inner, max_size=4)),
    max_leaves=12,
)
# By name, since examples are printed.
_NESTS = {"lists": b"[" * 100_000, "objects": b'{"a":' * 50_000, "kinds": b'{"kind":' * 20_000}
_NESTS |= {"closed": b"[[" * 30_000 + b"]]" * 30_000}
DEEP = st.sampled_from(sorted(_NESTS)).map(_NESTS.__getitem__)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """JSON objects that have most of these fields, each of its own kind or of any."""
    chosen = {name: st.one_of(kind, JSON) for name, kind in fields.items()}
    return st.fixed_dictionaries({}, optional=chosen).map(_dumped)


def mutations(*samples: bytes) -> st.SearchStrategy[bytes]:
    """Proper inputs with some bytes replaced, cut, doubled or put in; and bytes that are nothing."""
    edit = st.tuples(st.floats(0, 1), st.integers(0, 24), st.one_of(st.binary(max_size=12), st.sampled_from(_PIECES)))
    edited = st.tuples(st.sampled_from(samples), st.lists(edit, max_size=5)).map(_edited)
    return st.one_of(edited, edited, edited, st.binary(max_size=200), DEEP)


_PIECES = [b"\0" * 8, b"\xff" * 8, b"9" * 30, b"-1", b"Infinity", b"../", b"\r\n", b'"', b"{}", b"\xed\xa0\x80"]


def _edited(chosen: tuple[bytes, list[tuple[float, int, bytes]]]) -> bytes:
    data, edits = chosen
    for place, length, piece in edits:
        at = int(place * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def ours(act: Callable[[], Any], *errors: type[BaseException]) -> Any:
    """What it returns; None for one of these errors, whose message has bounds. Others are raised: they are bugs."""
    try:
        return act()
    except errors as error:
        assert len(str(error)) <= MESSAGE_CHARS_MAX, f"a message of {len(str(error))} characters"
        return None


MESSAGE_CHARS_MAX = 70_000  # in a packet of the gateway's, which has 200 kB
