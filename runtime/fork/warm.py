"""What a zygote does once so that helpers do not: settle the interpreter, warm what packages do first.

Runs inside zygotes and helpers: standard library only.
"""

import os
import sys

REHEARSAL_SOURCE = """\
import json


def main(param):
    return {"sum": sum(param["values"]), "text": f"{param['name']!r}"}
"""


def warm_packages() -> None:
    """What functions with these packages typically do first: builds their lazy tables in the zygote, once."""
    pandas = sys.modules.get("pandas")
    if pandas is not None:
        frame = pandas.DataFrame({"k": [1, 2, 1], "v": [1.0, 2.0, 3.0]})
        frame.groupby("k").sum().to_dict()


def reseed() -> None:
    """Change numpy's legacy random state, so that each helper inherits another; `random` has its own fork hook.

    A generator made before the fork (numpy.random.default_rng()) by a package at import stays the same in all.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        # 32 bits from the system, not seed(None): that one builds a SeedSequence, at 0.2 ms of page faults
        numpy_random.seed(int.from_bytes(os.urandom(4), "little"))
