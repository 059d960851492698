"""Which sets of packages fit into one interpreter, and which of them are alike. Pure.

A set of packages is a mapping from distribution to version: a process can import each distribution once, so a union
holds exactly one version of each (the reference checks names and versions too, and then installs names only).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

Pins = Mapping[str, str]  # distribution -> version
Name = TypeVar("Name", bound=str)


class Union:
    """A growing set of packages, never with two versions of one distribution."""

    __slots__ = ("versions",)

    def __init__(self, pins: Pins | None = None) -> None:
        self.versions: dict[str, str] = dict(pins or {})

    def takes(self, pins: Pins) -> bool:
        """Whether all of `pins` can be added."""
        versions = self.versions
        return all(versions.get(name, version) == version for name, version in pins.items())

    def add(self, pins: Pins) -> None:
        """Add `pins`, which it must take."""
        assert self.takes(pins), "a union with two versions of one distribution"
        self.versions.update(pins)


def cosine(own: AbstractSet[tuple[str, str]], other: AbstractSet[tuple[str, str]]) -> float:
    """Cosine of the angle between two 0/1 vectors of packages: |A and B| / sqrt(|A| |B|).

    A vector of zeros has no direction. As in the reference, to an owner without packages all others are equally
    alike (1). Another without packages is unlike an owner with some (0): in the reference it was 1, and functions
    that need no help took all places.
    """
    if not own:
        return 1.0
    if not other:
        return 0.0
    return len(own & other) / math.sqrt(len(own) * len(other))


def most_similar(own: Pins, candidates: Mapping[Name, Pins], limit: int, *, salt: str = "") -> list[tuple[Name, float]]:
    """Up to `limit` candidates with their similarity to `own`, the most similar first, all of them in one union.

    Each is accepted unless it conflicts with `own` or with one before it. Among equally similar ones the order is by
    a hash of salt and name: the same for any order of `candidates`, another for each salt, so that zygotes of
    different owners help different functions.
    """
    own_set = frozenset(own.items())
    known: dict[frozenset[tuple[str, str]], float] = {}
    by_similarity: dict[float, list[Name]] = {}
    for name, pins in candidates.items():
        pin_set = frozenset(pins.items())
        similarity = known.get(pin_set)
        if similarity is None:
            similarity = known[pin_set] = cosine(own_set, pin_set)
        by_similarity.setdefault(similarity, []).append(name)
    union = Union(own)
    chosen: list[tuple[Name, float]] = []
    for similarity in sorted(by_similarity, reverse=True):
        for name in sorted(by_similarity[similarity], key=_tie_breaker(salt)):
            if len(chosen) >= limit:
                return chosen
            if union.takes(candidates[name]):
                union.add(candidates[name])
                chosen.append((name, similarity))
    return chosen


def union_of(sets: Iterable[Pins]) -> Union:
    """The union of sets that do not conflict."""
    union = Union()
    for pins in sets:
        union.add(pins)
    return union


def _tie_breaker(salt: str) -> Callable[[str], tuple[bytes, str]]:
    start = hashlib.blake2b(salt.encode() + b"\0", digest_size=8)

    def key(name: str) -> tuple[bytes, str]:
        digest = start.copy()
        digest.update(name.encode())
        return digest.digest(), name

    return key
