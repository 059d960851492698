"""Waiting in an M/M/n queue, first come first served: rule B of the paper's idle detection rests on it. Pure.

lambda: arrivals a second, mu: requests that one server ends a second, a = lambda/mu: offered load in erlangs,
rho = a/n: utilisation. Formulas: L. Kleinrock, Queueing Systems I (1975), section 3.5; A. K. Erlang (1917).
"""

import math


def erlang_b(servers: int, load: float) -> float:
    """Share of requests that find all servers busy where none may wait; Erlang's first formula.

    By its recursion B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)), which needs no factorials or powers and so holds for
    thousands of servers. O(servers).
    """
    blocked = 1.0
    for server in range(1, servers + 1):
        blocked = load * blocked / (server + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """Probability that a request has to wait; Erlang's second formula. 1 where the queue has no steady state.

    C = n B / (n - a (1 - B)), which is the textbooks' (a^n/n!)/(1-rho) P0.
    """
    if load <= 0.0:
        return 0.0 if servers > 0 else 1.0
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1.0 - blocked))


def waits_at_most(limit_s: float, *, servers: int, arrivals_hz: float, service_s: float) -> float:
    """P(wait <= t) = 1 - C(n, a) e^(-n mu (1 - rho) t). 0 where the queue has no steady state.

    arrivals_hz: lambda. service_s: mean service time, 1/mu.
    """
    if servers <= 0 or limit_s < 0.0:
        return 0.0
    load = arrivals_hz * service_s
    if load <= 0.0:
        return 1.0
    if load >= servers:
        return 0.0
    return 1.0 - erlang_c(servers, load) * math.exp(-(servers - load) * limit_s / service_s)
