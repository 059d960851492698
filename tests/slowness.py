"""How much slower than a common machine this one is: waits that only a failing test waits out are as much longer.

Set PAGURUS_TEST_SLOWNESS where time runs slower, as in an emulated machine. It never changes what a test asserts.
"""

import os

FACTOR = float(os.environ.get("PAGURUS_TEST_SLOWNESS", "1"))


def patience_s(seconds: float) -> float:
    """A time limit for this machine."""
    return seconds * FACTOR
