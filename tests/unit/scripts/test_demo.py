"""scripts/demo.py against a double of pagurusd that answers as the examples do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"

PAGURUSD = """
import http.server, json, os, signal, sys
ANSWERS = {
    "hello": {"greeting": "Hello, Ada!"},
    "sales-report": {"total": 380.4, "best_product": "notebook"},
    "http-check": {"status": 200, "text": "all is well"},
}
class Gateway(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        zygote = {"state": "ready", "standbys": 2, "functions": list(ANSWERS)}
        self.answer({"zygotes": [zygote]} if "zygotes" in self.path else {"status": "ready"})
    def do_POST(self):
        name = self.path.split("/")[3]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({} if name == os.environ.get("WRONG") else ANSWERS[name])
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Pagurus-Start-Kind", "helped")
        self.send_header("Server-Timing", "queue;dur=0.25, run;dur=1.5")
        self.end_headers()
        self.wfile.write(body)
if os.environ.get("BROKEN"):
    sys.exit("no rootfs here")
signal.signal(signal.SIGTERM, lambda *_: (print("drained", flush=True), os._exit(0)))
host, port = os.environ["PAGURUS_LISTEN"].split(":")
http.server.HTTPServer((host, int(port)), Gateway).serve_forever()
"""
PAGURUS = "import sys; print('deployed', sys.argv[4])"


@pytest.fixture
def demo(tmp_path, unused_port):
    """Starts the demonstration with doubles of both programs; the process."""
    for name, code in (("pagurusd", PAGURUSD), ("pagurus", PAGURUS)):
        (tmp_path / name).write_text(f"#!{sys.executable}\n{code}")
        (tmp_path / name).chmod(0o755)
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import demo; from pathlib import Path;"
        f"demo.BIN = Path({str(tmp_path)!r}); sys.exit(demo.main())"
    )
    started = []

    def start(*arguments, **environ):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PAGURUS_LISTEN": f"127.0.0.1:{unused_port}",
                "TMPDIR": str(tmp_path),
                "PYTHONUNBUFFERED": "1",
                **environ,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def unused_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_once_shows_all_and_stops_cleanly(demo, tmp_path):
    process = demo("--once")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    for name in ("hello", "sales-report", "http-check"):
        assert f"deployed {name}" in out
    assert out.count("helped ") == 6
    assert out.count("phases in ms: queue 0.25  run 1.50") == 6
    assert "Try next" in out and "pagurusd has stopped" in out
    assert not list(tmp_path.glob("pagurusd-*.log"))


def test_it_stays_until_it_is_interrupted(demo):
    process = demo()
    while "Ctrl-C stops it" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "pagurusd has stopped" in out


def test_a_pagurusd_that_ends_shows_the_end_of_its_log(demo):
    process = demo("--once", BROKEN="yes")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ended with status 1 before it was ready" in err and "| no rootfs here" in err


def test_a_wrong_result_is_a_failure(demo):
    process = demo("--once", WRONG="sales-report")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "sales-report answered" in err


def test_an_address_in_use_is_said_with_the_way_out(demo):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        process = demo("--once", PAGURUS_LISTEN=f"127.0.0.1:{other.getsockname()[1]}")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "listens on" in err and "PAGURUS_LISTEN=" in err
