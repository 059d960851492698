"""Weighted choice without a generator's state: the same for equal seeds, whatever the order of names. Pure."""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=str)


def weighted_sample(names: Sequence[Name], count: int, weight: Callable[[Name], float], seed: str) -> list[Name]:
    """Up to `count` different names, each draw with chances in proportion to the weights of those left.

    Each name gets -ln(u)/weight, and the smallest win (P. S. Efraimidis and P. G. Spirakis, Weighted random sampling
    with a reservoir, 2006); u is a hash of seed and name, so that a new name changes the luck of no other.
    """
    start = hashlib.blake2b(seed.encode() + b"\0", digest_size=8)

    def luck(name: Name) -> tuple[float, Name]:
        digest = start.copy()
        digest.update(name.encode())
        uniform = (int.from_bytes(digest.digest(), "big") + 1) / (2**64 + 1)
        return -math.log(uniform) / max(weight(name), 1e-9), name

    return sorted(names, key=luck)[:count]
