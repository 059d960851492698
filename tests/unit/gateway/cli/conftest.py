import http.server
import json
import threading
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner


@dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes


@dataclass
class Gateway:
    """A gateway that answers what it was told and keeps what it was asked."""

    url: str = ""
    answers: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)

    def answer(self, method, path, body, *, status=200, content_type="application/json", headers=()):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[method, path] = (status, raw, {"Content-Type": content_type, **dict(headers)})

    def problem(self, method, path, status, **document):
        self.answer(method, path, document, status=status, content_type="application/problem+json")


@pytest.fixture
def gateway():
    double = Gateway()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_any(self):
            length = int(self.headers.get("Content-Length") or 0)
            double.requests.append(Request(self.command, self.path, dict(self.headers), self.rfile.read(length)))
            absent = (404, b'{"title": "nothing here"}', {"Content-Type": "application/problem+json"})
            status, body, headers = double.answers.get((self.command, self.path), absent)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_any

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        yield double
        server.shutdown()
        thread.join()


@dataclass
class Done:
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def pagurus(gateway):
    """Runs the program with these arguments against the gateway double."""
    from gateway.cli import main

    def run(*arguments, input=None, url=None):
        result = CliRunner().invoke(main.cli, ["--url", url or gateway.url, *map(str, arguments)], input=input)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return run
