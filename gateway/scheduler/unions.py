"""Which sets of packages fit into one interpreter, and which of them are alike. Pure.

A set of packages is one of pairs, distribution and version; a mapping's items are such a set. A process can import each
distribution once, so a union holds exactly one version of each (the reference checks names and versions, too, and then
installs names only).
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

Pin = tuple[str, str]  # distribution, version
Name = TypeVar("Name", bound=str)


class Union:
    """A growing set of packages, never with two versions of one distribution."""

    __slots__ = ("versions",)

    def __init__(self, pins: Iterable[Pin] = ()) -> None:
        self.versions: dict[str, str] = {}
        self.add(pins)

    def takes(self, pins: Collection[Pin], distributions_max: float = math.inf) -> bool:
        """Whether all of `pins` can be added, without more than `distributions_max` in all."""
        versions = self.versions
        if not all(versions.get(name, version) == version for name, version in pins):
            return False
        room = distributions_max - len(versions)
        return len(pins) <= room or sum(name not in versions for name, _ in pins) <= room

    def add(self, pins: Iterable[Pin]) -> None:
        """Add `pins`, which it must take."""
        for name, version in pins:
            assert self.versions.setdefault(name, version) == version, f"two versions of {name} in one union"


def cosine(own: AbstractSet[Pin], other: AbstractSet[Pin]) -> float:
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


def most_similar(
    own: frozenset[Pin],
    candidates: Mapping[Name, frozenset[Pin]],
    limit: int,
    *,
    salt: str = "",
    distributions_max: float = math.inf,
    blind: bool = False,
) -> list[tuple[Name, float]]:
    """Candidates with their similarity to `own`, the most similar first, all of them in one union.

    limit: of different sets among them. Those with the same packages as `own` or one that was taken cost nothing more,
    and come along.
    blind: all count as equally similar, so that chance alone decides: what similarity is to be measured against.

    Each is accepted unless it conflicts with `own` or with one before it, or makes the union too large. Among equally
    similar ones the order is by a hash of salt and name: the same for any order of `candidates`, another for each salt,
    so that zygotes of different owners help different functions.
    """
    if limit < 1:
        return []
    known: dict[frozenset[Pin], float] = {}
    by_similarity: dict[float, list[Name]] = {}
    for name, pins in candidates.items():
        similarity = known.get(pins)
        if similarity is None:
            similarity = known[pins] = 0.0 if blind else cosine(own, pins)
        by_similarity.setdefault(similarity, []).append(name)
    union = Union(own)
    taken = {own}
    chosen: list[tuple[Name, float]] = []
    for similarity in sorted(by_similarity, reverse=True):
        for name in sorted(by_similarity[similarity], key=_tie_breaker(salt)):
            pins = candidates[name]
            if pins not in taken and len(taken) <= limit and union.takes(pins, distributions_max):
                union.add(pins)
                taken.add(pins)
            if pins in taken:
                chosen.append((name, similarity))
    return chosen


def union_of(sets: Iterable[Iterable[Pin]]) -> Union:
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
