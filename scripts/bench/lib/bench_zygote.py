"""The zygote with one more message: a bare os.fork whose child serves the function without isolation.

Mounted into zygotes by the startup benchmark only. It is the baseline "bare os.fork of the same zygote": the child
runs the same worker code on the same source, but has no namespaces, cgroup, uid or seccomp program of its own.
"""

import json
import os
from typing import Any

from . import worker, zygote


class BenchZygote(zygote.Zygote):
    """Answers `bare` on the socket that came along; the first frame waits in it."""

    def handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message["kind"] != "bare":
            super().handle(message, descriptors)
            return
        code = f"/tmp/{message['name']}"
        if not os.path.isdir(code):
            os.mkdir(code)
            with open(f"{code}/main.py", "w") as file:
                file.write(message["source"])
        if os.fork() == 0:
            worker.Function(json.dumps(message["assignment"]).encode(), descriptors[0], code).serve_one()
            os._exit(0)
        # the child of the call before: whoever measures does not wait for it
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return


def main() -> None:
    zygote.main(BenchZygote)
