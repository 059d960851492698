"""One fork of a zygote into an empty sandbox, followed until its process is known. Runs in pagurusd.

Wires runtime.fork and runtime.sandbox. The helper's own report comes first, with its pid by the kernel's word; the
zygote's answer, with the pidfd, is read afterwards and must agree. Both may be hostile.
"""

import asyncio
from collections.abc import Callable

from runtime.errors import StartError
from runtime.fork import client
from runtime.fork.client import ZygoteClient
from runtime.reaper import Reaper
from runtime.sandbox import identity
from runtime.sandbox.sandbox import Sandbox, State


class Forking:
    """Forks of one zygote. `watch(sandbox, pid)`: from there on the node hears of the sandbox's end.

    first_uid: of the zygote's range.
    """

    def __init__(
        self, zygote: ZygoteClient, reaper: Reaper, watch: Callable[[Sandbox, int], None], *, first_uid: int
    ) -> None:
        self._first_uid = first_uid
        self._zygote = zygote
        self._reaper = reaper
        self._watch = watch

    def begin(self, chosen: Sandbox, *, standby: bool) -> asyncio.Future[int]:
        """Let the zygote fork into an empty sandbox; `finish` waits for it. Raises StartError."""
        chosen.become(State.SPAWNING)
        descriptors, has_cgroup = chosen.spawn_descriptors()
        requested = self._zygote.request_helper(
            environment=chosen.environment,
            hostname=chosen.id,
            uid=chosen.uid,
            standby=standby,
            descriptors=descriptors,
            has_cgroup=has_cgroup,
        )
        chosen.close_helper_ends()
        return requested

    async def finish(
        self, chosen: Sandbox, requested: asyncio.Future[int], on_isolated: Callable[[dict[str, float]], None]
    ) -> None:
        """Wait until the helper is isolated, call `on_isolated` with its phases in ms, then let the zygote confirm it.

        Raises StartError with the step that failed.
        """
        failure: StartError | None = None
        try:
            async with asyncio.timeout(client.SPAWN_TIMEOUT_S):
                phases_ms = await chosen.parked()
            # Its end is watched from its own report on: it may be over before the zygote's answer is read.
            self._watch_helper(chosen, chosen.reporter)
            on_isolated(phases_ms)
        except StartError as error:
            failure = error
        except TimeoutError:
            failure = StartError("fork", f"the helper was not isolated within {client.SPAWN_TIMEOUT_S:.0f} s")
        except BaseException:
            self._zygote.abandon(requested)
            raise
        # A zygote that refused says more than the closed socket of a helper that never was.
        pid = await self._zygote.helper(requested, reported=chosen.pid)
        if not chosen.is_watched:
            self._watch_helper(chosen, pid)
        if failure is not None:
            raise failure
        # It has checked itself; this is for a zygote whose imports have replaced our code.
        if power := identity.power_left(pid, self._first_uid + chosen.uid):
            raise StartError("capability check", f"the helper is not without power: {power}")

    def _watch_helper(self, chosen: Sandbox, pid: int) -> None:
        """From here on the sandbox has a process. Raises StartError for a pid that cannot be a helper's."""
        if pid > 0 and not self._reaper.can_watch(pid):
            raise StartError("fork", "the report came from a process that is not the zygote's helper")
        chosen.pid = pid
        chosen.is_watched = True
        self._watch(chosen, pid)
        if not chosen.is_live:
            chosen.kill_processes()  # it was killed before it had one
