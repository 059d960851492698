"""What lies on disk under the state directory: base root file systems, layers, environments, code. Runs in pagurusd.

Directories are made beside their name and renamed; the parents of what sandboxes mount belong to root and are
0700, so that no builder that still lives can touch a layer that is in use.
"""

import hashlib
import logging
import os
import pwd
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from runtime import packets
from runtime.config import Settings
from runtime.errors import BuildError, RequirementError, StartError
from runtime.fork import warm
from runtime.model import CodeId, Distribution, EnvironmentId, EnvironmentManifest, LayerId, RuntimeName
from runtime.sandbox import children, mounts
from runtime.sandbox.children import Steps
from runtime.store_index import StoredLayer, StoreIndex

log = logging.getLogger("pagurus.layers")

FACTS, FACTS_BYTES_MAX = "layer.json", 32 << 20
_MOUNT_POINTS = ("code", "opt/env", "proc", "sys", "dev", "tmp", "opt/pagurus")
_EMPTY_FILES = ("etc/resolv.conf",)  # where name servers are attached for a function with egress
_INSIDE = (
    "frames.py",
    "fork/__init__.py",
    "fork/zygote.py",
    "fork/worker.py",
    "fork/purge.py",
    "fork/warm.py",
    "fork/measure.py",
    "fork/ownership.py",
    "fork/manners.py",
)


class _Facts(msgspec.Struct):
    """The part of a layer's facts that the index needs."""

    distribution: Distribution
    size_bytes: int


class Layers:
    """Paths of everything stored, and the only code that adds or removes there."""

    def __init__(self, settings: Settings, inside: Mapping[str, bytes] | None = None) -> None:
        """inside: more files for the package that runs inside zygotes, by path (benchmarks measure from there)."""
        self._inside = dict(inside or {})
        self._root = Path(settings.state_dir)
        self._settings = settings
        self.skeleton = Path()
        self.index = StoreIndex()
        self.pinned: Counter[LayerId] = Counter()  # layers that running builds rely on

    def open(self) -> None:
        """Make the folders with their owners and modes, and the skeleton of every sandbox's root."""
        self._folder("", 0o711)
        for name in ("code", "environments", "layers", "trash"):
            self._folder(name, 0o700)
        for name in ("rootfs", "skeleton", "empty", "anchor"):
            self._folder(name, 0o755)
        self._folder("staging", 0o711)
        self._folder("store", 0o700, owner=self._settings.gateway_user)
        self._folder("cache", 0o700, owner=self._settings.builder_user)
        self.skeleton = self._make_skeleton()
        self._load_index()

    @property
    def anchor(self) -> Path:
        return self._root / "anchor"

    @property
    def cache(self) -> Path:
        return self._root / "cache"

    def runtimes(self) -> tuple[RuntimeName, ...]:
        """Runtimes whose base root file system is there."""
        found = [path.name for path in sorted((self._root / "rootfs").iterdir()) if path.is_symlink()]
        return tuple(RuntimeName(name) for name in found if (self._root / "rootfs" / name / "manifest.json").is_file())

    def root_lowers(self, runtime: RuntimeName) -> list[Path]:
        """Layers of a sandbox's root. Raises StartError for a runtime that is not there."""
        base = (self._root / "rootfs" / runtime / "fs").resolve()
        if not base.is_dir():
            raise StartError("rootfs", f"no base root file system for {runtime}", hint="run scripts/setup")
        return [self.skeleton, base]

    def code_lowers(self, code: CodeId) -> list[Path]:
        return [self._present("code", code), self._root / "empty"]

    def environment_lowers(self, environments: Sequence[EnvironmentId]) -> list[Path]:
        """Layers of the union of environments, each once. Raises StartError when it is one too many for an overlay."""
        layers = dict.fromkeys(layer for one in environments for layer in self.manifest(one).layers)
        if len(layers) > mounts.LOWERS_MAX - 1:
            raise StartError("rootfs", f"{len(layers)} packages together, the limit is {mounts.LOWERS_MAX - 1}")
        return [*(self._present("layers", layer) / "fs" for layer in layers), self._root / "empty"]

    def has_environment(self, environment: EnvironmentId) -> bool:
        """Whether it is there with all its layers."""
        layers = self.index.environments.get(environment)
        return layers is not None and all(layer in self.index.layers for layer in layers)

    def has_layer(self, layer: LayerId) -> bool:
        return (self._root / "layers" / layer / FACTS).is_file()

    def manifest(self, environment: EnvironmentId) -> EnvironmentManifest:
        """What an environment is made of. Raises StartError."""
        path = self._present("environments", environment) / "manifest.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=EnvironmentManifest)
        except (OSError, msgspec.DecodeError) as error:
            raise StartError("rootfs", f"environment {environment[:12]} cannot be read: {error}") from error

    def facts(self, layer: LayerId) -> bytes:
        """The JSON of what the builder knows of a layer."""
        return (self._present("layers", layer) / FACTS).read_bytes()

    def make_staging(self, name: str) -> Path:
        """A folder of the builder's own. Given up by `discard_path`."""
        return self._folder(f"staging/{name}", 0o700, owner=self._settings.builder_user)

    def adopt_code(self, staged: Path, code: CodeId) -> None:
        """Take a staged code tree under its id; one that is there already is kept. Raises BuildError."""
        if not _is_folder(staged):
            raise BuildError("internal", f"code {code[:12]} is not as the builder should have made it")
        self._adopt(staged, self._root / "code" / code)

    def adopt_layer(self, staged: Path, layer: LayerId) -> None:
        """Take a staged layer under its id, after all processes of its builder have ended. Raises BuildError."""
        facts = staged / FACTS
        has_facts = facts.is_file() and not facts.is_symlink() and facts.stat().st_size <= FACTS_BYTES_MAX
        if not has_facts or not all(_is_folder(path) for path in (staged.parent, staged, staged / "fs")):
            raise BuildError("internal", f"layer {layer[:12]} is not as the builder should have made it")
        _read_facts(staged)
        self._adopt(staged, self._root / "layers" / layer)
        self._index_layer(layer)

    def put_environment(self, manifest: EnvironmentManifest) -> None:
        """Store an environment, all of whose layers are there."""
        name = manifest.environment.id
        target = self._root / "environments" / name
        if target.exists():  # a part of its layers was lost, and is there again
            self.index.environments[name] = manifest.layers
            return
        beside = self._folder(f"environments/.{name}", 0o755)
        with open(beside / "manifest.json", "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, target)
        self.index.environments[name] = manifest.layers

    def codes(self) -> list[CodeId]:
        """Ids of all code trees."""
        return [CodeId(path.name) for path in (self._root / "code").iterdir() if not path.name.startswith(".")]

    def code_place(self, code: CodeId) -> str:
        return str(self._root / "code" / code)

    def drop_environment(self, environment: EnvironmentId) -> None:
        """Remove an environment; its layers stay."""
        self.index.environments.pop(environment, None)
        self.discard("environments", environment)

    def drop_layer(self, layer: LayerId) -> None:
        """Remove a layer, which no environment may need."""
        self.index.layers.pop(layer, None)
        self.discard("layers", layer)

    def touch(self, layers: Iterable[LayerId]) -> None:
        """A build uses these layers now."""
        for layer in layers:
            known = self.index.layers.get(layer)
            if known is not None:
                os.utime(self._root / "layers" / layer)
                known.used_s = time.time()

    def trim(self) -> None:
        """Give up layers that nothing needs, until all have at most store_bytes."""
        for layer in list(self.index.surplus(self._settings.store_bytes, self.pinned)):
            log.info("layer %s, %s, is given up for store_bytes", layer[:12], self.index.layers[layer].label)
            self.drop_layer(layer)

    def discard(self, kind: str, name: str) -> None:
        """Remove `code`, `environments` or `layers` NAME, if it is there; the deleting is a child's work."""
        path = self._root / kind / name
        if path.is_dir():
            self.discard_path(path)

    def discard_path(self, path: Path) -> None:
        """Move a folder out of sight at once; a child process deletes it."""
        trash = self._root / "trash" / f"{path.name}-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return
        self.empty_trash()

    def empty_trash(self) -> None:
        """Delete what lies in the trash, in a child."""
        trash = self._root / "trash"

        def body(end: socket.socket, steps: Steps) -> None:
            end.close()
            for path in trash.iterdir():
                shutil.rmtree(path, ignore_errors=True)

        ours, theirs = packets.packet_pair()
        with ours, theirs:
            children.fork_child(body, theirs, outlives_parent=True)

    def clear_leftovers(self) -> int:
        """At start: builds of an earlier run are rubbish. Returns how many folders that were."""
        kinds = ("code", "environments", "layers")
        folders = [*(self._root / "staging").iterdir(), *(path for kind in kinds for path in self._temporary(kind))]
        for path in folders:
            os.rename(path, self._root / "trash" / f"{path.name}-{os.urandom(4).hex()}")
        self.empty_trash()
        return len(folders)

    def _load_index(self) -> None:
        for path in (self._root / "layers").iterdir():
            if not path.name.startswith("."):
                self._index_layer(LayerId(path.name))
        for path in (self._root / "environments").iterdir():
            try:
                self.index.environments[EnvironmentId(path.name)] = self.manifest(EnvironmentId(path.name)).layers
            except StartError as error:
                log.warning("%s", error)

    def _index_layer(self, layer: LayerId) -> None:
        path = self._root / "layers" / layer
        try:
            facts = _read_facts(path)
        except BuildError as error:
            log.warning("%s", error)
            return
        label = f"{facts.distribution.name}=={facts.distribution.version}"
        self.index.layers[layer] = StoredLayer(label, facts.size_bytes, path.stat().st_mtime)

    def _temporary(self, kind: str) -> list[Path]:
        return [path for path in (self._root / kind).iterdir() if path.name.startswith(".")]

    def _present(self, kind: str, name: str) -> Path:
        path = self._root / kind / name
        if not path.is_dir():
            raise StartError("rootfs", f"{kind} {name[:12]} is not in the store", hint="deploy the function again")
        return path

    def _adopt(self, staged: Path, target: Path) -> None:
        if target.exists():
            return
        os.chmod(staged, 0o755)  # noqa: S103  its parent is 0700
        os.rename(staged, target)

    def _folder(self, name: str, mode: int, *, owner: str | None = None) -> Path:
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True)
        if owner is not None:
            try:
                record = pwd.getpwnam(owner)
            except KeyError:
                raise RequirementError(f"there is no user {owner!r}", hint="run scripts/setup") from None
            os.chown(path, record.pw_uid, record.pw_gid)
        os.chmod(path, mode)
        return path

    def _make_skeleton(self) -> Path:
        """Mount points, our code that runs inside, and the init: the top layer of every root."""
        package = Path(__file__).resolve().parent
        files = {f"_pagurus/{name}": (package / name).read_bytes() for name in _INSIDE}
        files["_pagurus/__init__.py"] = b""
        files |= {f"_pagurus/{name}": data for name, data in self._inside.items()}
        files["rehearsal/main.py"] = warm.REHEARSAL_SOURCE.encode()
        files["init"] = (package / "sandbox/init").read_bytes()
        extension = next((package / "fork").glob("_spawn*.so"), None)
        if extension is None:
            raise RequirementError("the C extension runtime.fork._spawn is not built", hint="run scripts/setup")
        files["_pagurus/fork/_spawn.abi3.so"] = extension.read_bytes()
        points = repr((_MOUNT_POINTS, _EMPTY_FILES)).encode()
        digest = hashlib.sha256(
            points + b"".join(name.encode() + data for name, data in sorted(files.items()))
        ).hexdigest()
        target = self._root / "skeleton" / digest[:16]
        if target.is_dir():
            return target
        beside = self._root / "skeleton" / f".{digest[:16]}-{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        for name in _MOUNT_POINTS:
            (beside / name).mkdir(parents=True)
        for name in _EMPTY_FILES:
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).touch()
        for name, data in files.items():
            path = beside / "opt/pagurus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (beside / "opt/pagurus/init").chmod(0o755)
        for path in (beside, *beside.rglob("*")):
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        (beside / "tmp").chmod(0o1777)
        os.rename(beside, target)
        return target


def _is_folder(path: Path) -> bool:
    """Whether it is one itself: what root does to a link is done to what the builder chose."""
    return path.is_dir() and not path.is_symlink()


def _read_facts(layer: Path) -> _Facts:
    try:
        return msgspec.json.decode((layer / FACTS).read_bytes(), type=_Facts)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BuildError(
            "internal", f"layer {layer.name[:12]} is not as the builder should have made it: {error}"
        ) from error
