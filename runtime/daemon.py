"""`pagurusd`: the root process. Wires the node's parts, keeps a gateway running, ends in order.

Single-threaded: it enters mount namespaces and forks, and both refuse or endanger a process with threads.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
import uvloop

from runtime import bases, config, doctor, logs, places, protocol, tokens
from runtime.config import Settings
from runtime.errors import ConfigError, PagurusError, RequirementError
from runtime.gateway_process import GatewayProcess
from runtime.layers import Layers
from runtime.memory_watch import MemoryWatch
from runtime.node import Node
from runtime.parts import Parts, open_parts
from runtime.sandbox import identity
from runtime.sandbox.cgroup import Cgroup, CgroupTree

log = logging.getLogger("pagurus.daemon")

END_S = 10.0
LEFTOVER_S = 5.0
TOKENS_EVERY_S = 1.0  # a change of the file is heeded after


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path), help="Settings file [/etc/pagurus/pagurus.toml]."
)
@click.option("--state-dir", help="Where layers, code and the store live [/var/lib/pagurus].")
@click.option("--run-dir", help="Where sockets and the lock live [/run/pagurus].")
@click.option("--listen", help="Address of the HTTP gateway [127.0.0.1:8080].")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--check", is_flag=True, help="Check this machine and the settings, then exit.")
@click.version_option(version("pagurus"), prog_name="pagurusd")
def main(
    config_path: Path | None,
    state_dir: str | None,
    run_dir: str | None,
    listen: str | None,
    log_level: str | None,
    check: bool,
) -> None:
    """Run the Pagurus node: sandboxes, zygotes, and the HTTP gateway.

    Needs root. SIGTERM or Ctrl-C drains and stops; a second one hurries.
    """
    overrides = {"state_dir": state_dir, "run_dir": run_dir, "listen": listen, "log_level": log_level}
    try:
        settings = config.load(config_path, os.environ, overrides)
        logs.configure(settings.log_level)
        if os.geteuid() != 0:
            raise RequirementError("pagurusd must run as root", hint="sudo pagurusd")
        places.check_file(config_path or config.DEFAULT_CONFIG_PATH)
        tokens.require(settings, tokens.load(tokens.file_of(settings)))
        checks = _require(settings, verbose=check)
        if check:
            return
        with _Lock(Path(settings.run_dir), Path(settings.state_dir)):
            uvloop.run(_Daemon(settings, checks).run())
    except PagurusError as error:
        _complain(error)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _complain(error: PagurusError) -> None:
    sys.stderr.write(f"pagurusd: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {error.hint}\n")


def _require(settings: Settings, *, verbose: bool) -> tuple[protocol.Check, ...]:
    """The checks of `pagurus doctor`; raises RequirementError when one that is required fails."""
    checks = doctor.run_checks(settings)
    for one in checks:
        if verbose:
            sys.stdout.write(f"{'ok  ' if one.ok else 'FAIL' if one.required else 'lack'} {one.name}: {one.found}\n")
        if not one.ok:
            level = logging.ERROR if one.required else logging.WARNING
            log.log(level, "check=%s found=%s lost=%s fix=%s", one.name, one.found, one.lost, one.fix)
    failed = [one for one in checks if one.required and not one.ok]
    if failed:
        names = ", ".join(f"{one.name} ({one.found})" for one in failed)
        raise RequirementError(f"this machine lacks {names}", hint=failed[0].fix or "run pagurus doctor")
    return checks


class _Lock:
    """One pagurusd a state directory."""

    def __init__(self, run_dir: Path, state_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = state_dir / "pagurusd.lock"
        self._fd = -1

    def __enter__(self) -> None:
        places.make(self._run_dir, 0o700)
        places.make(self._path.parent, 0o711)  # the gateway and builders pass through to their own
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise RequirementError(
                f"another pagurusd (pid {owner or 'unknown'}) uses {self._path.parent}",
                hint="stop it, or choose another --state-dir",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


class _Daemon:
    """The running daemon: makes the parts, then waits for signals."""

    def __init__(self, settings: Settings, checks: tuple[protocol.Check, ...]) -> None:
        self._settings = settings
        self._checks = checks
        self._tokens = tokens.load(tokens.file_of(settings))
        self._stops = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Until a signal, or until something that cannot be lost is lost."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        identity.set_resource_limits(open_files=_open_files_max())
        with _listener(settings) as listener:
            parts = open_parts(settings)
            try:
                if not bases.built(_rootfs(settings)):
                    raise RequirementError("no base root file system", hint="run scripts/setup")
                await _clear_leftovers(parts.cgroups, parts.layers)
                if refusal := parts.egress.check():
                    log.warning("functions cannot have egress: %s", refusal)
                gateway = GatewayProcess(settings, listener, partial(self._welcome, parts), parts.reaper)
                node = Node(parts, gateway.send)
                node.bases.discard_leftovers()
                gateway.attach(node)
                watch = MemoryWatch(parts.cgroups.headroom, lambda reading: gateway.send(reading, []))
                await self._serve(node, gateway, watch)
            finally:
                parts.close()

    async def _serve(self, node: Node, gateway: GatewayProcess, watch: MemoryWatch) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            running = group.create_task(node.run())
            keeping = group.create_task(gateway.keep(on_ready=self._ready))
            heeding = group.create_task(self._watch_tokens(gateway))
            await self._stop.wait()
            log.info("stopping: draining for up to %.0f s", self._settings.drain_s)
            _notify("STOPPING=1")
            stopping = group.create_task(gateway.stop(self._settings.drain_s))
            hurrying = group.create_task(self._hurry.wait())
            await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            gateway.kill()
            await stopping
            keeping.cancel()
            watching.cancel()
            node.end_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await node.wait_empty()
            if not node.is_empty:
                log.error("stopped, but not everything ended within %.0f s; the next start clears it", END_S)
            running.cancel()
            heeding.cancel()
        log.info("stopped")

    async def _watch_tokens(self, gateway: GatewayProcess) -> None:
        """Tell the gateway when `pagurus token` has changed the file. One that cannot be read changes nothing."""
        path = tokens.file_of(self._settings)
        known = tokens.stamp(path)
        while True:
            await asyncio.sleep(TOKENS_EVERY_S)
            found = tokens.stamp(path)
            if found == known:
                continue
            known = found
            try:
                now = tokens.load(path)
            except ConfigError as error:
                log.error("the tokens stay as they were: %s", error)
                continue
            self._tokens = now
            log.info("tokens: %d", len(now))
            gateway.send(protocol.TokensChanged(tokens=now), [])

    def _ready(self) -> None:
        log.info("ready: http://%s", self._settings.listen)
        _notify("READY=1")

    def _on_stop(self) -> None:
        self._stops += 1
        self._stop.set()
        if self._stops > 1:
            log.warning("stopping now")
            self._hurry.set()

    def _welcome(self, parts: Parts) -> protocol.Welcome:
        return protocol.Welcome(
            protocol=protocol.VERSION,
            node=parts.node,
            run=parts.run,
            version=version("pagurus"),
            settings=config.public(self._settings),
            runtimes=bases.built(_rootfs(self._settings)),
            checks=self._checks,
            tokens=self._tokens,
            egress_refusal=parts.egress.refusal,
        )


def _rootfs(settings: Settings) -> Path:
    return Path(settings.state_dir) / "rootfs"


async def _clear_leftovers(cgroups: CgroupTree, layers: Layers) -> None:
    """Kill and remove what an earlier run of this node left: it was killed, or could not finish."""
    left: list[Cgroup] = list(cgroups.leftovers())
    killed = 0
    for cgroup in left:
        killed += len(cgroup.processes())
        with contextlib.suppress(OSError):
            cgroup.kill()
    end_s = time.monotonic() + LEFTOVER_S
    waiting = left
    while waiting and time.monotonic() < end_s:
        waiting = [cgroup for cgroup in waiting if not cgroup.try_remove()]
        if waiting:
            await asyncio.sleep(0.02)
    folders = layers.clear_leftovers()
    if left or folders:
        log.info("cleared: cgroups=%d processes=%d folders=%d", len(left) - len(waiting), killed, folders)
    if waiting:
        log.error("cannot remove %d cgroups of an earlier run, the first is %s", len(waiting), waiting[0].paths[0])


def _listener(settings: Settings) -> socket.socket:
    host, port = config.listen_address(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # What the kernel holds for a client that has stopped reading or has gone; connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(settings.write_timeout_s * 1000)))
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise RequirementError(
            f"cannot listen on {settings.listen}: {error.strerror}",
            hint="stop what uses it, or choose another --listen",
        ) from error
    listener.listen(1024)
    return listener


def _open_files_max() -> int:
    """A sandbox takes about a dozen. Root without CAP_SYS_RESOURCE cannot raise the hard limit."""
    wanted = min(1 << 20, int(Path("/proc/sys/fs/nr_open").read_text()))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), wanted))
    except (ValueError, PermissionError):
        return min(wanted, hard)
    return wanted


def _notify(state: str) -> None:
    """sd_notify(3): tell systemd, if it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end, contextlib.suppress(OSError):
        end.connect("\0" + address[1:] if address.startswith("@") else address)
        end.send(state.encode())


if __name__ == "__main__":
    main()
