"""Who may be helped by which zygote: the rule of tenants (DESIGN section 6). Pure; a leaf.

A helper is a copy of its zygote, so any package imported there can see what runs in its helpers. The gateway asks
this before it chooses a zygote; pagurusd asks again, by what it has mounted, before it lets a function in.
"""

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from runtime.model import Environment


def may_help(packages: AbstractSet[str], tenants: Collection[str], *, own: AbstractSet[str], tenant: str) -> bool:
    """Whether a function of `tenant`, which declares the packages `own`, may come from a zygote.

    packages: what the zygote holds and not everybody trusts, by exact file. tenants: those who chose all of it.
    """
    return tenant in tenants or packages <= own


def untrusted(environment: Environment, trusted: Collection[str]) -> frozenset[str]:
    """The packages of an environment that not everybody trusts, each by its exact file.

    trusted: the operator's names. They are the index's: what a user has given by address is that user's, whatever
    its name. Of an environment that was stored without its files only itself is known to hold the same.
    """
    if not environment.layers:
        return frozenset(f"{environment.id}/{one.name}" for one in environment.distributions)
    return frozenset(
        layer for name, layer in environment.layers.items() if name not in trusted or name in environment.foreign
    )
