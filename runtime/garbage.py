"""Gives up what nothing needs: code, environments, layers, replaced base root file systems. Runs in pagurusd.

What versions need, the gateway knows; what live zygotes, sandboxes and builds need, is known here. Layers that no
environment refers to stay as a cache, within store_bytes, so that a deploy that needs them again finds them.
"""

import json
import logging
import os
import socket
from collections.abc import Callable

from runtime import packets
from runtime.base_builds import BaseBuilds
from runtime.model import CodeId, EnvironmentId
from runtime.parts import Parts
from runtime.protocol import CollectGarbage, Discard, GarbageCollected, GarbageItem, Keep
from runtime.sandbox import children
from runtime.sandbox.children import Steps

log = logging.getLogger("pagurus.garbage")

ITEMS_MAX = 800  # of one answer: keeps it below protocol.MESSAGE_BYTES_MAX
Uses = tuple[set[CodeId], set[EnvironmentId]]


class Garbage:
    """in_use: code and environments that live zygotes and sandboxes have mounted."""

    def __init__(self, parts: Parts, bases: BaseBuilds, in_use: Callable[[], Uses]) -> None:
        self._parts = parts
        self._bases = bases
        self._in_use = in_use

    def discard(self, message: Discard) -> None:
        """Remove code and environments, unless they are in use; their layers become cache."""
        codes, environments = self._in_use()
        for code in message.codes:
            if code not in codes:
                self._drop_code(code)
        for environment in message.environments:
            if environment not in environments:
                self._drop_environment(environment)
        self._parts.layers.trim()

    async def collect(self, message: CollectGarbage, keep: Keep) -> GarbageCollected:
        """Remove, or only list, all that neither a version nor something live needs."""
        layers = self._parts.layers
        used_codes, used_environments = self._in_use()
        codes = [code for code in layers.codes() if code not in keep.codes and code not in used_codes]
        kept = keep.environments | used_environments
        environments = [one for one in layers.index.environments if one not in kept]
        free = layers.index.unreferenced(layers.pinned, without=environments)
        old_bases = self._bases.old()
        sizes = await self._sizes([*map(layers.code_place, codes), *map(str, old_bases)])
        items = [GarbageItem(kind="code", id=code, size_bytes=sizes[index]) for index, code in enumerate(codes)]
        for base, size in zip(old_bases, sizes[len(codes) :], strict=True):
            items.append(GarbageItem(kind="rootfs", id=base.name, size_bytes=size))
        items += [GarbageItem(kind="environment", id=one) for one in environments]
        for layer in free:
            known = layers.index.layers[layer]
            items.append(
                GarbageItem(kind="layer", id=layer, label=known.label, size_bytes=known.size_bytes, used_s=known.used_s)
            )
        total_bytes = layers.index.layers_bytes
        if not message.dry_run:
            for code in codes:
                self._drop_code(code)
            for environment in environments:
                self._drop_environment(environment)
            for layer in free:
                layers.drop_layer(layer)
            self._bases.discard_old()
            log.info("collected %d items", len(items))
        return GarbageCollected(
            ticket=message.ticket,
            items=tuple(sorted(items, key=lambda item: -item.size_bytes)[:ITEMS_MAX]),
            count=len(items),
            freed_bytes=sum(item.size_bytes for item in items),
            layers_bytes=total_bytes,
            store_bytes=self._parts.settings.store_bytes,
        )

    def _drop_code(self, code: CodeId) -> None:
        self._parts.overlays.forget(f"code {code}")
        self._parts.layers.discard("code", code)

    def _drop_environment(self, environment: EnvironmentId) -> None:
        self._parts.overlays.forget(environment)
        self._parts.layers.drop_environment(environment)

    async def _sizes(self, places: list[str]) -> list[int]:
        """Bytes on the disk of some trees; a child walks them."""
        fd = os.memfd_create("sizes", os.MFD_CLOEXEC)

        def body(end: socket.socket, _: Steps) -> None:
            end.close()
            os.write(fd, json.dumps([tree_bytes(place) for place in places]).encode())

        ours, theirs = packets.packet_pair()
        with open(fd, "rb") as answer, ours, theirs:
            await self._parts.reaper.wait(children.fork_child(body, theirs))
            answer.seek(0)
            found: list[int] = json.loads(answer.read() or b"[]")
        return found if len(found) == len(places) else [0] * len(places)


def tree_bytes(place: str) -> int:
    """What a tree has on the disk; hard links count once."""
    total, seen, pending = 0, set[tuple[int, int]](), [place]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return total
