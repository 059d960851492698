"""What a build box sees as its root: uv, the skeleton of every sandbox, a base with or without compilers. pagurusd.

All lower layers, read-only. uv is copied below the state directory once, so that no file of the host is mounted.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime import packets
from runtime.errors import BuildError
from runtime.model import RuntimeName
from runtime.packets import PacketSocket
from runtime.parts import Parts
from runtime.sandbox import children
from runtime.sandbox.children import Steps

UV = "/opt/uv"
WORK = "build"
TOOLCHAIN = "toolchain"  # rootfs/RUNTIME-TOOLCHAIN, made by scripts/setup --toolchain
_FORMAT = 1  # raise it when the layer below changes otherwise than with uv


@dataclass(frozen=True, slots=True)
class BoxRoot:
    """`key`: of the overlay, the same as long as the lowers are."""

    key: str
    lowers: tuple[Path, ...]
    has_toolchain: bool


async def prepare(parts: Parts, runtime: RuntimeName) -> BoxRoot:
    """The layers of a box's root, made where they are not there. Raises BuildError, StartError."""
    state = Path(parts.settings.state_dir)
    skeleton, base = parts.layers.root_lowers(runtime)
    toolchain = (state / "rootfs" / f"{runtime}-{TOOLCHAIN}" / "fs").resolve()
    has_toolchain = (toolchain.parent / "manifest.json").is_file()
    top = await _uv_layer(parts, state / "skeleton")
    lowers = (top, skeleton, toolchain if has_toolchain else base)
    return BoxRoot("box " + ":".join(map(str, lowers)), lowers, has_toolchain)


async def _uv_layer(parts: Parts, folder: Path) -> Path:
    program = Path(sys.prefix, "bin", "uv")
    try:
        status = program.stat()
    except FileNotFoundError:
        raise BuildError("internal", f"there is no {program}", hint="run scripts/setup") from None
    identity = f"{_FORMAT} {program} {status.st_size} {status.st_mtime_ns}"
    target = folder / f"box-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not target.is_dir():
        await _copy_uv(parts, program, target)
    return target


async def _copy_uv(parts: Parts, program: Path, target: Path) -> None:
    """Copied by a child: it takes longer than pagurusd may stand still."""
    beside = target.with_name(f".{target.name}-{os.getpid()}-{os.urandom(4).hex()}")

    def body(end: socket.socket, steps: Steps) -> None:
        steps("copy uv")
        os.umask(0o022)
        try:
            for name in (WORK, UV.strip("/").rpartition("/")[0]):
                (beside / name).mkdir(parents=True)
            shutil.copyfile(program, f"{beside}{UV}")
            os.chmod(f"{beside}{UV}", 0o755)  # noqa: S103  a program
            with contextlib.suppress(OSError):  # another was first
                os.rename(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        end.send(b"{}")

    ours, theirs = packets.packet_pair()
    with PacketSocket(ours) as channel, theirs:
        ended = parts.reaper.expect(children.fork_child(body, theirs))
        theirs.close()
        await children.answer(channel, "a build box")
        await ended
