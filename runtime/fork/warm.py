"""What a zygote and a standby run once so that the first invocation does not: touch the pages, fill the caches.

Runs inside zygotes and helpers: standard library only.
"""

import json
import sys

_SOURCE = """
import json
def main(param):
    return {"sum": sum(param["values"]), "text": f"{param['name']!r}"}
"""
_ROUNDS_ZYGOTE = 20
_ROUNDS_STANDBY = 3


def _round() -> None:
    names: dict[str, object] = {"__name__": "warm"}
    exec(compile(_SOURCE, "/code/warm.py", "exec"), names)  # noqa: S102  our own constant text
    main = names["main"]
    assert callable(main)
    json.dumps(main(json.loads('{"values": [1, 2, 3], "name": "x"}'))).encode()


def warm_zygote() -> None:
    """Run the helper's path until the allocator and the specialising interpreter have settled."""
    for _ in range(_ROUNDS_ZYGOTE):
        _round()
    _packages()


def warm_standby() -> None:
    """Copy, before parking, the pages the first invocation would write."""
    for _ in range(_ROUNDS_STANDBY):
        _round()
    _packages()


def _packages() -> None:
    """What functions with these packages typically do first; each halves the first call (research)."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        frame = pandas.DataFrame({"k": [1, 2, 1], "v": [1.0, 2.0, 3.0]})
        frame.groupby("k").sum().to_dict()


def reseed() -> None:
    """Give this process random state of its own; `random` is reseeded by its own fork hook."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
