"""What the store holds and what refers to what: layers by environments, with sizes and last use. Runs in pagurusd.

Kept in memory beside the folders, so that decisions about space need no walk of the disk.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from runtime.model import EnvironmentId, LayerId


@dataclass(slots=True)
class StoredLayer:
    """One layer. label: name==version. used_s: wall clock of its making or last use by a build."""

    label: str
    size_bytes: int
    used_s: float


class StoreIndex:
    """Layers and environments of one store. An environment refers to its layers as long as it is there."""

    def __init__(self) -> None:
        self.layers: dict[LayerId, StoredLayer] = {}
        self.environments: dict[EnvironmentId, tuple[LayerId, ...]] = {}

    @property
    def layers_bytes(self) -> int:
        """What all layers have on the disk."""
        return sum(layer.size_bytes for layer in self.layers.values())

    def unreferenced(self, kept: Collection[LayerId], without: Collection[EnvironmentId] = ()) -> list[LayerId]:
        """Layers that nothing needs, the one whose use is longest ago first.

        kept: needed for another reason. without: environments that do not count.
        """
        needed = {layer for one, layers in self.environments.items() if one not in without for layer in layers}
        free = [layer for layer in self.layers if layer not in needed and layer not in kept]
        return sorted(free, key=lambda layer: (self.layers[layer].used_s, layer))

    def surplus(self, bytes_max: int, kept: Collection[LayerId]) -> Iterator[LayerId]:
        """Unreferenced layers to give up, the least recently used first, until what stays is at most bytes_max."""
        left_bytes = self.layers_bytes
        for layer in self.unreferenced(kept):
            if left_bytes <= bytes_max:
                return
            left_bytes -= self.layers[layer].size_bytes
            yield layer
