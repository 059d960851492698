"""Attacks over HTTP: what takes resources, breaks the protocol or comes with a deploy ends as the right problem.

One pagurusd for all. Its first sandboxes of each function are helpers (forked from a zygote that has all that they
declare) or executors (cold, with a package to import). After each attack the victim is asked.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests import leaks
from tests.index import Index
from tests.integration_root.attacks import protocol, resources, stage
from tests.integration_root.attacks.attacker import Attack
from tests.integration_root.attacks.bundles import BUNDLES, Bundle
from tests.node_bed import state_directory
from tests.pagurusd import Answer, Daemon, archive
from tests.wheels import packed

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86_64"),
]
TARGETS = {"resources": resources, "protocol": protocol}
STARTS = {"helper": "helped", "executor": "cold"}
LIMITS = {
    "memory_bytes": 64 << 20,
    "pids": 24,
    "cpu_millis": 500,
    "timeout_s": 1.5,
    "tmp_bytes": 4 << 20,
    "log_bytes": 4096,
    "result_bytes": 65536,
}
# Answers after which the sandbox may serve the next one: its worker was still there to tell.
SURVIVED = {"function-exception", "function-result-too-large", "function-result-invalid"}
GATEWAY_GROWTH_BYTES_MAX = 64 << 20
SHARE_S = 3.0  # in which the victim must answer while attackers spin
_MAIN = """
import os
from attacks import attacker, resources, protocol

def main(param, context):
    if param == "leave":
        os._exit(0)
    return attacker.run(param, {"id": context.aws_request_id})
"""
_VICTIM = """
import os, time
START = time.monotonic_ns()

def main(param):
    return [os.environ["SECRET"], START, sorted(os.listdir("/tmp"))]
"""


class Scene:
    """The daemon, an index, and the victim as it was at first."""

    def __init__(self, daemon: Daemon, index: Index) -> None:
        self.daemon = daemon
        self.index = index
        daemon.deploy("victim", _VICTIM, environ={"SECRET": "kept"}, limits={"timeout_s": 20})
        code = {"main.py": _MAIN, **stage.shipped("attacks", "attacker", *TARGETS)}
        daemon.deploy("helper", code, limits=LIMITS)
        daemon.deploy("executor", {**code, "requirements.txt": "dep\n"}, limits=LIMITS)
        self.before = daemon.result("victim")

    def start(self, way: str, one: Attack) -> Answer:
        """The attack, as the first invocation of a sandbox."""
        self.leave(way)  # of a test that failed
        self.daemon.until(lambda: not self.daemon.sandboxes(function=way), "the former attacker's end")
        answer = self.daemon.invoke(way, one.name)
        assert answer.headers["X-Pagurus-Start-Kind"] == STARTS[way]
        return answer

    def leave(self, way: str) -> None:
        """End a survivor, if there is one."""
        if self.daemon.sandboxes(function=way):
            self.daemon.invoke(way, "leave")

    def check_victim(self) -> None:
        """The victim is the same process, with what it had, and answers in time."""
        started_s = time.monotonic()
        assert self.daemon.result("victim") == self.before
        assert time.monotonic() - started_s < SHARE_S

    def gateway_bytes(self) -> int:
        return int(psutil.Process(self.daemon.gateway_pid()).memory_info().rss)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with (
        pytest.MonkeyPatch.context() as patch,
        Index(packed("dep", "1.0", {"dep.py": "VALUE = 7\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
    ):
        patch.setenv("UV_HTTP_RETRIES", "0")
        settings = {"index_url": index.url, "policy": "keepalive", "standbys_per_zygote": 2, "drain_s": 3}
        with Daemon(scope, **settings) as daemon:
            found = Scene(daemon, index)
            gateway, before = daemon.gateway_pid(), found.gateway_bytes()
            yield found
            assert daemon.gateway_pid() == gateway, "no attack ended the gateway"
            assert found.gateway_bytes() < before + GATEWAY_GROWTH_BYTES_MAX
            errors = [line for line in daemon.log().splitlines() if "internal error" in line or "Traceback" in line]
            assert not errors, errors


def _rows() -> list[Any]:
    return [
        pytest.param(way, one, id=f"{target}-{one.name.replace(' ', '_')}-{way}")
        for target, module in TARGETS.items()
        for one in stage.of(module)
        for way in STARTS
    ]


@pytest.mark.parametrize(("way", "one"), _rows())
def test_an_attack_ends_as_expected_and_the_victim_has_not_noticed(scene: Scene, way: str, one: Attack):
    answer = scene.start(way, one)
    scene.check_victim()
    if one.answer is not None:
        assert (answer.status, answer.word) == one.answer, answer.body[:500]
    else:
        assert answer.status == 200, answer.body[:500]
        assert (answer.json if one.seen != "(not JSON)" else one.seen) == one.seen
        assert answer.headers["Content-Type"] == "application/json"
    if not one.ends if answer.status == 200 else answer.word in SURVIVED:
        scene.leave(way)
    scene.daemon.until(lambda: not scene.daemon.sandboxes(function=way), "the attacker's end")


@pytest.mark.parametrize("bundle", [pytest.param(one, id=name.replace(" ", "_")) for name, one in BUNDLES.items()])
def test_a_hostile_bundle_or_package_is_refused_at_its_deploy(scene: Scene, bundle: Bundle):
    scene.index.files.update(bundle.wheels)
    answer = scene.daemon.put("bundle", bundle.archive(), limits=LIMITS)
    assert (answer.status, answer.word) in {(422, word) for word in bundle.words} | {(503, "start-failed")}
    assert answer.word in bundle.words
    assert scene.daemon.request("GET", "/v1/functions/bundle").status == 404, "nothing is half deployed"
    scene.check_victim()


def test_a_bundle_without_an_attack_is_deployed(scene: Scene):
    """Else the refusals above would say nothing."""
    assert scene.daemon.put("bundle", archive("def main(param):\n    return 1\n"), limits=LIMITS).status == 201
    assert scene.daemon.request("DELETE", "/v1/functions/bundle").status in (200, 204)
