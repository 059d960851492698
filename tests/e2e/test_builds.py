"""Deploys with packages, through pagurusd, gateway and command line, from an index of the test's own."""

import json
import threading

import pytest

from tests import leaks
from tests.e2e.conftest import EXTRA
from tests.index import Fault, Index
from tests.node_bed import state_directory
from tests.pagurusd import Answer, Daemon, archive
from tests.wheels import packed

USES = {"main.py": "import dep\n\ndef main(param):\n    return dep.VALUE\n", "requirements.txt": "dep\n"}
WHEEL = "dep-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


class Deploy(threading.Thread):
    """A deploy beside the test's own work."""

    def __init__(self, daemon: Daemon, name: str, source: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._put = lambda: daemon.put(name, archive(source))
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._put()
        except (OSError, EOFError):
            self.answer = None
        except Exception as error:
            assert "RemoteDisconnected" in type(error).__name__ or "Incomplete" in type(error).__name__, error


def test_killed_in_the_middle_of_a_build_the_next_start_clears_and_the_next_deploy_works():
    with (
        Index(packed("dep", "1.0", {"dep.py": "VALUE = 7\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        index.faults[WHEEL] = Fault.STALL
        deploy = Deploy(daemon, "uses", USES)
        index.wait_seen(f"/files/{WHEEL}")
        assert list((daemon.state / "staging").iterdir())
        daemon.kill()
        deploy.join(30)
        index.faults.clear()
        daemon.start()
        daemon.wait_ready()
        daemon.until(lambda: not list((daemon.state / "staging").iterdir()), "staging to be cleared")
        assert not list((daemon.state / "layers").iterdir())
        daemon.deploy("uses", USES)
        assert daemon.result("uses") == 7


def test_a_deploy_shows_lock_costs_and_conflicts_and_gc_gives_up_what_is_left():
    both = packed("dep", "1.0", {"dep.py": "VALUE = 7\n", "shared.py": "a = 1\n"}) | packed(
        "top", "2", {"top.py": "import dep\n", "shared.py": "a = 2\n"}, ["dep"]
    )
    with (
        Index(both) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        files = {"main.py": "import top\n\ndef main(param):\n    return top.dep.VALUE\n", "requirements.txt": "top"}
        deployed = daemon.deploy("uses", files)
        assert deployed["distributions"] == ["dep==1.0", "top==2"]
        assert {"unpack", "resolve", "layers", "install", "compile", "check", "total"} <= set(deployed["deploy_ms"])
        assert deployed["conflicts"] == [{"path": "shared.py", "used": "top", "hidden": "dep"}]
        assert {"dep", "top", ""} == set(deployed["import_costs"])
        assert all(cost["ms"] >= 0 and cost["memory_bytes"] >= 0 for cost in deployed["import_costs"].values())
        lock = daemon.cli("show", "uses", "--lock").stdout
        assert f"sha256:{index.sha256(WHEEL)}" in lock and lock.startswith("dep==1.0")
        shown = daemon.cli("show", "uses").stdout
        assert "top==2" in shown
        assert daemon.result("uses") == 7
        # The lock is honoured as it is: the same environment, without asking the index.
        asked = len(index.seen)
        daemon.deploy("locked", {**files, "requirements.txt": lock})
        assert daemon.result("locked") == 7
        assert len(index.seen) == asked
        assert json.loads(daemon.cli("gc", "--dry-run", "--json").stdout)["count"] == 0
        for name in ("uses", "locked"):
            assert daemon.cli("rm", name).returncode == 0

        def unneeded() -> bool:
            items = json.loads(daemon.cli("gc", "--dry-run", "--json").stdout)["items"]
            return {item["label"] for item in items if item["kind"] == "layer"} == {"dep==1.0", "top==2"}

        daemon.until(unneeded, "the layers to be unneeded")
        assert "would free" in daemon.cli("gc", "--dry-run").stdout
        assert "freed" in daemon.cli("gc").stdout
        assert not list((daemon.state / "layers").iterdir())
        daemon.deploy("uses", files)
        assert daemon.result("uses") == 7


def test_requirements_of_a_pyproject_are_taken():
    with (
        Index(packed("dep", "1.0", {"dep.py": "VALUE = 7\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        project = '[project]\nname = "mine"\nversion = "1"\ndependencies = ["dep>=1"]\n'
        daemon.deploy("uses", {"main.py": USES["main.py"], "pyproject.toml": project})
        assert daemon.result("uses") == 7


def test_an_import_that_fails_is_told_with_its_traceback_and_deploys_nothing():
    with (
        Index(packed("dep", "1.0", {"dep.py": "import does_not_exist\n"})) as index,
        state_directory() as scope,
        leaks.no_leaks(scope),
        Daemon(scope, index_url=index.url, **EXTRA) as daemon,
    ):
        answer = daemon.put("uses", archive(USES))
        assert (answer.status, answer.word) == (422, "function-import-failed")
        assert "does_not_exist" in answer.json["detail"] + json.dumps(answer.json)
        assert "dep.py" in json.dumps(answer.json)
        assert daemon.request("GET", "/v1/functions/uses").status == 404
