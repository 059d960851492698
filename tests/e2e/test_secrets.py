"""A secret on a real node: it reaches the function however that starts, and is found nowhere else."""

import json
import os
import subprocess
from pathlib import Path

from tests.pagurusd import BIN, Daemon

VALUE = "hush-5f1c0ffee-on-a-real-node"
PACKAGE = "iniconfig"
CODE = "import os\n\ndef main(param):\n    return os.environ.get('API_KEY')\n"


def found_in(daemon: Daemon) -> list[str]:
    """Every file of the state directory, and command line and environment of every process, with the secret in it."""
    places = []
    for folder, _, names in os.walk(daemon.state):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and VALUE.encode() in path.read_bytes():
                places.append(str(path))
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for kind in ("cmdline", "environ"):
            try:
                if VALUE.encode() in Path(f"/proc/{pid}/{kind}").read_bytes():
                    places.append(f"/proc/{pid}/{kind}")
            except OSError:
                continue
    return places


def shown_by(daemon: Daemon) -> list[str]:
    paths = ["/v1/functions", "/v1/functions/key", "/v1/functions/key/status", "/v1/status", "/v1/sandboxes"]
    paths += ["/v1/zygotes", "/v1/invocations", "/openapi.json"]
    return [path for path in paths if VALUE in daemon.request("GET", path).body.decode()]


def cli(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The value comes by stdin, so that it is on no command line and in no environment."""
    command = [BIN / "pagurus", "--url", f"http://127.0.0.1:{daemon.port}", *arguments]
    return subprocess.run(command, input=VALUE + "\n", capture_output=True, text=True, timeout=120, check=False)


def test_a_secret_reaches_the_function_on_every_start_and_is_found_nowhere_else(fresh: Daemon, tmp_path: Path):
    code = tmp_path / "main.py"
    code.write_text(CODE)
    done = cli(fresh, "deploy", "key", str(code), "--secret", "API_KEY@-", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["secrets"] == ["API_KEY"] and VALUE not in done.stdout + done.stderr
    kinds = set()
    for _ in range(3):
        answer = fresh.invoke("key")
        assert answer.json == VALUE
        kinds.add(answer.headers["X-Pagurus-Start-Kind"])
    fresh.request("DELETE", "/v1/sandboxes?function=key")
    assert fresh.result("key") == VALUE
    assert kinds == {"helped", "warm"}
    assert found_in(fresh) == [] and shown_by(fresh) == []
    assert all(VALUE not in str(fresh.get(f"/v1/invocations/{one['id']}"))
               for one in fresh.get("/v1/invocations")["invocations"])  # fmt: skip
    # Its own process has it in memory only: what the kernel shows of the environment is the zygote's.
    key = fresh.state / "store/secrets.key"
    assert key.stat().st_mode & 0o7777 == 0o600 and key.owner() == "pagurus"
    assert cli(fresh, "rotate-key").returncode == 0
    assert fresh.stop() == 0
    fresh.start()
    fresh.wait_ready()
    assert fresh.result("key") == VALUE
    fresh.deploy("key", CODE + "# another version\n")
    assert fresh.result("key") == VALUE, "an update keeps it"
    assert fresh.request("DELETE", "/v1/functions/key").status == 204
    fresh.deploy("key", CODE)
    assert fresh.result("key") is None
    assert found_in(fresh) == [] and VALUE not in fresh.log()


def test_a_secret_reaches_a_cold_start_with_packages(fresh: Daemon):
    body = f"import os, {PACKAGE}\n\ndef main(param):\n    return os.environ['API_KEY']\n"
    code = {"main.py": body, "requirements.txt": PACKAGE + "\n"}
    fresh.deploy("cold", code, secrets={"API_KEY": VALUE}, policy="keepalive")
    answer = fresh.invoke("cold")
    assert (answer.json, answer.headers["X-Pagurus-Start-Kind"]) == (VALUE, "cold")
    assert found_in(fresh) == []
