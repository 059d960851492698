"""Packages that misbehave while a zygote imports them, or later: it is refused, and their function starts cold."""

import asyncio
import contextlib
import os
import textwrap
from pathlib import Path

import pytest

from runtime import conduct, protocol
from runtime.fork import client
from runtime.frames import FrameKind
from runtime.model import MIB, Limits, ZygoteId
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO = "def main(param):\n    return param\n"
BY_ZYGOTE_ONLY = (
    "import os\nif len([n for n in os.listdir('/proc') if n.isdigit()]) > 1:\n"  # a sandbox has one process
)

# name -> what the package does when it is imported, what the refusal says, whether a sandbox can import it
IMPORTS: dict[str, tuple[str, str, bool]] = {
    "thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
        "started 1 thread",
        True,
    ),
    "child": ("import os, time\nif os.fork() == 0:\n    time.sleep(1000)\n", "left 1 process", True),
    "orphan": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        os.wait()
        """,
        "left 1 process",
        True,
    ),
    "sigterm": (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
        "changed what happens at SIGTERM",
        True,
    ),
    "sigchld": (
        "import signal\nsignal.signal(signal.SIGCHLD, lambda *_: None)\n",
        "changed what happens at SIGCHLD",
        True,
    ),
    "mask": ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n", "blocked SIGUSR1", True),
    "timer": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 1000)\n", "set ITIMER_REAL", True),
    "timer that kills": (
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntime.sleep(9)\n",
        "ended",
        False,
    ),
    "trace": ("import sys\nsys.setprofile(lambda *_: None)\n", "called sys.setprofile", True),
    "file": ("f = open('/tmp/x', 'w')\n", "left open /tmp/x", True),
    "socket": ("import socket\ns = socket.socket()\n", "left open socket:", True),
    "umask": ("import os\nos.umask(0o077)\n", "set the umask to 0077", True),
    "memory": (BY_ZYGOTE_ONLY + "    hog = bytearray(os.urandom(1 << 20)) * 100\n", "took 1", True),
    "out of memory": (
        BY_ZYGOTE_ONLY + "    hog = bytearray(b'x') * (400 << 20)\n",
        "needed more than zygote_memory",
        True,
    ),
    "never": (BY_ZYGOTE_ONLY + "    while True:\n        pass\n", "importing evil took more than", True),
    "exit": (BY_ZYGOTE_ONLY + "    os._exit(0)\n", "ended while importing evil", True),
    "crash": (BY_ZYGOTE_ONLY + "    os.kill(os.getpid(), 11)\n", "ended while importing evil", True),
    "garbage": (
        """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b"\\xff{]garbage")
            except OSError:
                pass
        """,
        "malformed report",
        False,  # the same garbage on a sandbox's own sockets breaks that sandbox
    ),
    "forged": (
        BY_ZYGOTE_ONLY + """    os.write(3, b'{"kind": "ready", "import_ms": {}, "failed": {}, "uncovered": {}}')\n""",
        "malformed report",
        True,
    ),
    "descriptors": (
        """
        import array, os, socket
        if len([n for n in os.listdir("/proc") if n.isdigit()]) > 1:
            s = socket.socket(fileno=os.dup(3))
            rights = array.array("i", [0] * 9)
            s.sendmsg([b'{"kind": "imported"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            s.close()
        """,
        "malformed report",
        True,
    ),
    "closed": (BY_ZYGOTE_ONLY + "    os.close(3)\n", "ended while importing evil", True),
    "dup": (
        BY_ZYGOTE_ONLY + "    fd = os.open('/etc/passwd', os.O_RDONLY)\n    os.dup2(fd, 0)\n    os.close(fd)\n",
        "closed or replaced descriptor 0",
        True,
    ),
    "builtins": ("import builtins\nbuiltins.len = lambda of: 7\n", "replaced builtins.len", False),
    "os": ("import os\nreal = os.open\nos.open = lambda *a, **k: real(*a, **k)\n", "replaced os.open", True),
    "modules": ("import sys, types\nsys.modules['json'] = types.ModuleType('json')\n", "replaced json", False),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_zygote_with_a_package_that_misbehaves_is_refused_and_its_function_starts_cold(name: str):
    source, words, works_cold = IMPORTS[name]

    async def scenario(bed: Bed) -> None:
        client.IMPORT_TIMEOUT_S = 1.5  # in this forked process only
        await bed.zygote()
        innocent = await bed.parked()
        good = bed.write_environment({("good", "1"): {"good.py": "VALUE = 1\n"}})
        evil = bed.write_environment({("evil", "1"): {"evil.py": textwrap.dedent(source)}})
        both = await bed.try_zygote("both", [good, evil])
        assert isinstance(both, protocol.ZygoteFailed), "it was taken for a good one"
        assert both.is_refused and words in both.message, both
        assert both.suspect == "evil", both
        await bed.zygote("rest", [good])
        sandbox = await bed.parked(good.id)
        code = bed.write_code("import good\n\ndef main(param):\n    return good.VALUE\n")
        bed.assign(sandbox, bed.assignment(code, environment=good.id))
        assert (await bed.call(sandbox)).value == 1, "the others of the union have a zygote without it"
        code = bed.write_code("import evil\n\ndef main(param):\n    return param\n")
        cold = await bed.start("base", bed.assignment(code, environment=evil.id, limits=Limits(memory_bytes=256 * MIB)))
        if works_cold:
            answer = await bed.call(cold, 5)
            assert (answer.kind, answer.value) == (FrameKind.RESULT, 5), answer
        bed.assign(innocent, bed.assignment(bed.write_code(ECHO)))
        assert (await bed.call(innocent, 7)).value == 7, "another function's next invocation"
        assert len(bed.node._zygotes) == 2

    in_node(zygote_memory_bytes=128 * MIB)(scenario)()


@in_node()
async def test_what_replaces_things_of_the_library_may_do_so_in_a_zygote_of_its_own(bed: Bed):
    """Whoever is helped from there declares the package, and would have the same done to it by a cold start."""
    source = "import builtins\nreal = builtins.dir\nbuiltins.dir = lambda *of: ['mine', *real(*of)]\n"
    good = bed.write_environment({("good", "1"): {"good.py": "VALUE = 1\n"}})
    sure = bed.write_environment({("sure", "1"): {"sure.py": source}})
    both = await bed.try_zygote("both", [good, sure])
    assert isinstance(both, protocol.ZygoteFailed)
    assert (both.message, both.suspect, both.can_be_alone) == ("importing sure replaced builtins.dir", "sure", True)
    await bed.zygote("alone", [sure])
    code = bed.write_code("import sure\n\ndef main(param):\n    return dir([])[0]\n")
    helped = await bed.parked(sure.id)
    bed.assign(helped, bed.assignment(code, environment=sure.id))
    assert (await bed.call(helped)).value == "mine"
    await bed.zygote("base")
    cold = await bed.start("base", bed.assignment(code, environment=sure.id))
    assert (await bed.call(cold)).value == "mine"


LATE: dict[str, tuple[str, str]] = {
    "thread": (
        """
        import threading, time
        def later():
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        """,
        "started 1 thread",
    ),
    "process": (
        """
        import os, time
        def later():
            if os.fork() == 0:
                time.sleep(1000)
        """,
        "left 1 process",
    ),
    "memory": (
        """
        def later():
            global hog
            hog = bytearray(b"x") * (110 << 20)
        """,
        "took 1",
    ),
}
# Called by the interpreter itself after the zygote was found good: between two messages, without thread or timer.
TRIGGER = """
import json
real = json.loads
class Decoder(json.JSONDecoder):
    def decode(self, text, *rest):
        value = super().decode(text, *rest)
        if isinstance(value, dict) and value.get("kind") == "spawn":
            later()
        return value
json._default_decoder = Decoder()
"""


@pytest.mark.parametrize("name", LATE)
def test_a_zygote_that_misbehaves_later_is_ended_and_told(name: str):
    source, words = LATE[name]

    async def scenario(bed: Bed) -> None:
        conduct.LOOK_EVERY_S, conduct.LOOK_AGAIN_S = 0.1, 0.05  # in this forked process only
        await bed.zygote()
        innocent = await bed.parked()
        evil = bed.write_environment({("evil", "1"): {"evil.py": textwrap.dedent(source) + TRIGGER}})
        await bed.zygote("evil", [evil], standbys=1)
        host = bed.node._zygotes[ZygoteId("evil")]
        cgroup, own = host._cgroup, {host._namespace.init_pid, host._namespace.builder_pid}
        helper = None
        if name != "thread":
            helper = await bed.parked(evil.id)
        died = (await bed.until(lambda: bed.told(protocol.ZygoteDied, zygote="evil")))[0]
        assert died.is_refused and (words in died.reason or "more than one thread" in died.reason), died
        if helper is not None:
            await bed.until(lambda: helper in bed.dead)
        with contextlib.suppress(OSError):
            await bed.until(lambda: cgroup.processes() <= own)
        bed.assign(innocent, bed.assignment(bed.write_code(ECHO)))
        assert (await bed.call(innocent, 7)).value == 7

    in_node(zygote_memory_bytes=128 * MIB)(scenario)()


@in_node()
async def test_what_a_dropped_zygote_left_dies_with_it_though_helpers_live_on(bed: Bed):
    """A zygote that does not heed the end of its socket is ended all the same."""
    source = textwrap.dedent(
        """
        import sys, time
        frame = sys._getframe()
        while type(frame.f_locals.get("self")).__name__ != "Zygote":
            frame = frame.f_back
        def serve(self, real=type(frame.f_locals["self"]).serve):
            real(self)
            while True:
                time.sleep(1)
        type(frame.f_locals["self"]).serve = serve
        """
    )
    stays = bed.write_environment({("stays", "1"): {"stays.py": source}})
    await bed.zygote("stays", [stays])
    helper = await bed.parked(stays.id)
    bed.assign(helper, bed.assignment(bed.write_code(ECHO), environment=stays.id))
    assert (await bed.call(helper, 1)).value == 1
    pid = bed.node._zygotes[ZygoteId("stays")].pid
    bed.node.handle(protocol.DropZygote(zygote=ZygoteId("stays")), [])
    await bed.until(lambda: not Path(f"/proc/{pid}").exists())
    assert (await bed.call(helper, 2)).value == 2, "its helper lives on"


@in_node()
async def test_looking_costs_little(bed: Bed):
    await bed.zygote()
    watcher = bed.node._zygotes[ZygoteId("base")]._watcher
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for _ in range(20):
        assert watcher.look() == []
    assert (loop.time() - started_s) / 20 < 0.01
