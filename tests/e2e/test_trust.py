"""Tenants and packages that misbehave, from deploy to answer, with real wheels."""

import os
import textwrap
import time

import pytest

from tests import leaks
from tests.e2e.conftest import EXTRA
from tests.index import Index
from tests.node_bed import state_directory
from tests.pagurusd import Daemon
from tests.wheels import packed

IN_ZYGOTE = "import os\nif len([n for n in os.listdir('/proc') if n.isdigit()]) > 1:\n"  # a sandbox has one process
EVIL = {
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
    "orphan": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        os.wait()
        """,
    "handler": "import signal\nsignal.signal(signal.SIGTERM, lambda *_: None)\n",
    "exits": IN_ZYGOTE + "    os._exit(3)\n",
    "liar": IN_ZYGOTE + """    os.write(3, b'{"kind": "ready", "import_ms": {}, "failed": {}, "uncovered": {}}')\n""",
}
# What is fine where nobody else is: it gets a zygote of its own.
PATCHES = "import os\nreal = os.open\nos.open = lambda *given, **named: real(*given, **named)\n"


def uses(*names: str, body: str = "return param") -> dict[str, str]:
    """A function that imports these packages."""
    imports = "".join(f"import {name}\n" for name in names)
    return {"main.py": f"{imports}\ndef main(param):\n    {body}\n", "requirements.txt": "\n".join(names)}


def wheels(sources: dict[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, source in sources.items():
        found |= packed(name, "1.0", {f"{name}.py": textwrap.dedent(source)})
    return found


def ready(daemon: Daemon, function: str) -> bool:
    zygotes = daemon.get("/v1/zygotes")["zygotes"]
    return any(function in zygote["meant_for"] and zygote["state"] == "ready" for zygote in zygotes)


def fresh_start(daemon: Daemon, name: str, param: object) -> dict[str, object]:
    """The record of an invocation that a new sandbox answers."""
    daemon.cli("evict", name)
    daemon.until(lambda: not daemon.sandboxes(function=name), "its sandboxes to end")
    answer = daemon.invoke(name, param)
    assert (answer.status, answer.json) == (200, param), answer.body
    return daemon.record(answer)


def test_packages_that_misbehave_cost_their_own_functions_a_cold_start_and_nobody_else_anything():
    with (
        Index(wheels({**EVIL, "patches": PATCHES, "good": "VALUE = 1\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        daemon.deploy("innocent", uses("good"))
        for name in (*EVIL, "patches"):
            daemon.deploy(f"f-{name}", uses(name, "good"))

        def settled() -> bool:
            found = daemon.get("/v1/zygotes")
            out = {name for one in found["kept_out"] for name in one["functions"]}
            return out == {f"f-{name}" for name in EVIL} and ready(daemon, "innocent") and ready(daemon, "f-patches")

        daemon.until(settled, "all that misbehave to be kept out")
        failed = daemon.get("/v1/status")["counters"]["zygotes_failed"]
        for name in EVIL:
            record = fresh_start(daemon, f"f-{name}", 5)
            assert record["start_kind"] == "cold"
            assert name in record["start_note"], record
            status = daemon.get(f"/v1/functions/f-{name}/status")
            assert status["obstacle"] == record["start_note"]
            assert record["start_note"] in daemon.cli("status", f"f-{name}").stdout
        for name in ("innocent", "f-patches"):
            record = fresh_start(daemon, name, 6)
            assert (record["start_kind"], record["start_note"]) == ("helped", "")
        time.sleep(2.0)
        assert daemon.get("/v1/status")["counters"]["zygotes_failed"] == failed, "it is tried again and again"
        assert not [line for line in daemon.log().splitlines() if "internal error" in line or "Traceback" in line]


SPY = """
import ctypes, glob, os, re, socket

def attempt(what):
    try:
        return ["done", str(what())[:200]]
    except Exception as error:
        return ["failed", f"{type(error).__name__}: {error}"]

def connect(address, family=socket.AF_INET):
    with socket.socket(family) as end:
        end.settimeout(0.5)
        end.connect(address)

DECOY = "treasure-" + "".join(["5e"] * 16)  # so that a search that finds nothing can be told from one that is broken

def search():
    found = set()
    for line in open("/proc/self/maps").read().splitlines():
        bounds, access, _, device = line.split()[:4]
        if access.startswith("r") and device == "00:00" and "[v" not in line:
            first, end = (int(text, 16) for text in bounds.split("-"))
            found |= set(re.findall(rb"treasure-[0-9a-f]{32}", ctypes.string_at(first, end - first)))
    return sorted(one.decode() for one in found)

SEEN = {
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "code": os.listdir("/code"),
    "tmp": os.listdir("/tmp"),
    "environ": dict(os.environ),
    "interfaces": os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else [],
    "other memory": glob.glob("/proc/[0-9]*/environ"),
    "gateway": attempt(lambda: connect(("127.0.0.1", PORT))),
    "outside": attempt(lambda: connect(("192.0.2.1", 80))),
    "unlink a package": attempt(lambda: os.unlink(__file__)),
    "unlink python": attempt(lambda: os.unlink("/usr/bin/env")),
    "write the root": attempt(lambda: open("/evil", "w")),
    "kill everyone": attempt(lambda: os.kill(1, 0)),
    "store": attempt(lambda: os.listdir("STATE")),
    "secrets": search(),
}
"""


def test_a_spy_in_a_zygote_of_one_tenant_sees_nothing_of_the_host_or_another_tenant():
    with state_directory() as scope, leaks.no_leaks(scope):
        daemon = Daemon(scope, **EXTRA)
        source = SPY.replace("PORT", str(daemon.port)).replace("STATE", str(daemon.state))
        with Index(wheels({"spy": source, "good": "VALUE = 1\n"})) as index:
            daemon.settings["index_url"] = index.url
            with daemon:
                spy_on(daemon)


def spy_on(daemon: Daemon) -> None:
    victim = uses("good", body="import os; return os.environ['TOKEN'] and param")
    daemon.deploy("victim", victim, tenant="red", environ={"TOKEN": f"treasure-{os.urandom(16).hex()}"})
    assert daemon.result("victim", 1) == 1
    daemon.deploy("spying", uses("spy", "good", body="return spy.SEEN"), tenant="blue")
    daemon.until(lambda: ready(daemon, "spying"), "a zygote with the spy")
    daemon.cli("evict", "spying")
    daemon.until(lambda: not daemon.sandboxes(function="spying"), "its sandboxes to end")
    answer = daemon.invoke("spying")
    assert answer.headers["X-Pagurus-Start-Kind"] == "helped", "it was imported in the zygote"
    seen = answer.json
    assert sorted(seen["processes"]) == ["1", "2"], "init and itself"
    assert seen["code"] == []
    assert seen["secrets"] == ["treasure-" + "5e" * 16], "its own"
    assert "TOKEN" not in seen["environ"]
    for what in ("gateway", "outside", "unlink a package", "unlink python", "write the root", "store"):
        assert seen[what][0] == "failed", (what, seen[what])
    assert daemon.result("victim", 2) == 2
    for zygote in daemon.get("/v1/zygotes")["zygotes"]:
        assert not {"victim", "spying"} <= set(zygote["meant_for"])


def test_tenants_share_what_they_both_declare_and_nothing_else():
    with (
        Index(wheels({"common": "VALUE = 1\n", "own": "VALUE = 2\n", "other": "VALUE = 3\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        daemon.deploy("red-one", uses("common", "own"), tenant="red")
        daemon.deploy("blue-one", uses("common", "own"), tenant="blue")
        daemon.deploy("red-two", uses("common"), tenant="red")
        daemon.deploy("blue-two", uses("common", "other"), tenant="blue")
        names = ("red-one", "blue-one", "red-two", "blue-two")
        daemon.until(lambda: all(ready(daemon, name) for name in names), "zygotes for all")
        for name in names:
            record = fresh_start(daemon, name, 7)
            assert record["start_kind"] == "helped", record
        zygotes = [one for one in daemon.get("/v1/zygotes")["zygotes"] if one["environments"]]
        by_functions = {tuple(sorted(one["meant_for"])): set(one["tenants"]) for one in zygotes}
        assert by_functions == {
            ("blue-one", "red-one"): {"red", "blue"},
            ("red-two",): {"red"},
            ("blue-two",): {"blue"},
        }
        live = daemon.get("/v1/functions/blue-two/status")
        assert live["tenant"] == "blue"
        blue = {one["id"] for one in zygotes if "blue" in one["tenants"]}
        assert {one["id"] for one in live["zygotes"] if one["kind"] == "helped"} <= blue
        rows = daemon.cli("ls").stdout.splitlines()
        assert [row.split()[:2] for row in rows[1:]] == [[name, name.split("-")[0]] for name in sorted(names)]
        assert "tenant" in daemon.cli("show", "red-one").stdout


@pytest.mark.parametrize("tenant", ["", "Red", "*", "=x", "a b", "9", "-", "x" * 64])
def test_a_tenant_s_name_keeps_the_rule(shared: Daemon, tenant: str):
    done = shared.put("strange", b"", tenant=tenant)
    assert (done.status, done.word) == (400, "invalid-settings"), done.body
