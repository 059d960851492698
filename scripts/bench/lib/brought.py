"""Which distributions importing one module brings in: seen by a fresh interpreter in a sandbox, as packages may do
anything when they are imported.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .daemon import Daemon

SOURCE = '''
import importlib.metadata, json, re, subprocess, sys

PROGRAM = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
files = [file for one in list(sys.modules.values()) if (file := getattr(one, "__file__", None))]
sys.__stdout__.write("\\\\n" + json.dumps(files))
"""


def main(module):
    """Names of the distributions that importing the module loads files of; null when it cannot be imported alone."""
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, module]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr)
        return None
    owners = {}
    for one in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        owners |= {str(file.locate()): name for file in one.files or ()}
    return sorted({owners[file] for file in json.loads(done.stdout.splitlines()[-1]) if file in owners})
'''


class Brought:
    """One environment's function in a daemon, which imports nothing itself."""

    def __init__(self, daemon: Daemon, name: str, requirements: str) -> None:
        self._name = name
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(SOURCE)
            (Path(folder) / "requirements.txt").write_text(requirements)
            daemon.deploy_folder(name, Path(folder))
        self._connection = daemon.connect()

    def of(self, module: str, distribution: str) -> Sequence[str]:
        """Distributions that importing the module loads files of; its own alone when it cannot be imported alone."""
        self._connection.request("POST", f"/v1/functions/{self._name}/invocations", json.dumps(module))
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self._name}, {module}: {answer.status} {content!r}")
        return list(json.loads(content) or [distribution])
