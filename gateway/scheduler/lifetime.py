"""Fixed lifetimes of idle sandboxes, as all policies have them. Pure."""

from gateway.scheduler.policy import Idle, Retire, Stay, Verdict

UNKNOWN_FUNCTION = "its function is not deployed"


def keep_for(idle: Idle, lifetime_s: float, now_s: float, *, what: str = "keep-alive") -> Verdict:
    """Stay until `lifetime_s` after it became idle, then retire. what: the lifetime's name, for people."""
    ends_s = idle.idle_since_s + lifetime_s
    if now_s < ends_s:
        return Stay(ends_s)
    return Retire(f"idle for {now_s - idle.idle_since_s:.1f} s, {what} is {lifetime_s:g} s")


def describe(verdict: Verdict, now_s: float) -> str:
    """A verdict in words."""
    if isinstance(verdict, Retire):
        return f"at {now_s:.1f} s: retired, {verdict.why}"
    return f"at {now_s:.1f} s: stays until {verdict.until_s:.1f} s"
