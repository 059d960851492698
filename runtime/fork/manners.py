"""What a package may not do to its zygote and only the process itself can see. Runs inside zygotes: standard library.

Best effort: it finds out careless packages. A hostile one owns this process and can lie here, so what pagurusd can see
from outside (threads, processes, descriptors, signals, memory) it looks at itself (runtime/conduct.py), and what no
one can see harms only those whom the rule of tenants lets share the zygote.
"""

import signal
import sys
from types import ModuleType

# Modules that every function uses; what is replaced in them would be replaced in all helpers, whatever they declare.
_WATCHED = ("builtins", "os", "sys", "io", "socket", "json", "time", "signal", "random", "threading")
_OURS = {("builtins", "__import__")}  # recorded while packages are imported, and put back
_TIMERS = ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
NAMED_MAX = 5


class Manners:
    """The state before the first package, to be compared with."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = dict(sys.modules)
        self._functions = {
            (name, key): value
            for name in _WATCHED
            if name in sys.modules
            for key, value in vars(sys.modules[name]).items()
            if callable(value) and (name, key) not in _OURS
        }

    def faults(self) -> list[str]:
        """What is not as it was, in words."""
        found = []
        timers = [name for name in _TIMERS if signal.getitimer(getattr(signal, name)) != (0.0, 0.0)]
        if timers:
            found.append(f"set {', '.join(timers)}")
        if sys.gettrace() is not None:
            found.append("called sys.settrace")
        if sys.getprofile() is not None:
            found.append("called sys.setprofile")
        return found

    def replaced(self) -> str:
        """What everybody uses and is another thing now, in words; ''. Nobody minds who has chosen the package."""
        changed = [
            f"{name}.{key}"
            for (name, key), value in self._functions.items()
            if vars(self._modules[name]).get(key) is not value
        ]
        changed += [name for name, module in self._modules.items() if sys.modules.get(name) is not module]
        if not changed:
            return ""
        more = f" and {len(changed) - NAMED_MAX} more" if len(changed) > NAMED_MAX else ""
        return f"replaced {', '.join(changed[:NAMED_MAX])}{more}"
