"""The worker's pure parts: loading a handler, counting its parameters, describing what went wrong."""

import json
import socket
import sys
import time
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path

import pytest

from runtime.fork import ownership, worker
from runtime.fork.worker import Context, Failure
from runtime.frames import HEADER, HEADER_BYTES, ErrorKind, FrameKind, pack


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module of the user's and load a handler from it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(worker, "CODE", str(tmp_path))

    def load(source: str, handler: str = "user_main.main"):
        sys.modules.pop("user_main", None)
        (tmp_path / "user_main.py").write_text(source)
        return worker._load(handler, str(tmp_path))

    return load


@pytest.mark.parametrize(
    ("source", "wants_context"),
    [
        ("def main(param): pass", False),
        ("def main(param=None): pass", False),
        ("def main(event, context): pass", True),
        ("def main(event, context=None): pass", False),
        ("def main(event=None, context=None): pass", True),
        ("def main(event, context, more=1): pass", True),
        ("def main(*args): pass", False),
        ("def main(param, *rest): pass", False),
        ("def main(param, *, key=1): pass", False),
        ("def main(param, **names): pass", False),
        ("async def main(param): pass", False),
        ("main = lambda param: param", False),
        ("main = len", False),
        ("main = print", False),
        ("import functools\ndef f(a, event): pass\nmain = functools.partial(f, 1)", False),
        ("import functools\ndef f(a, event, context): pass\nmain = functools.partial(f, 1)", True),
        ("class C:\n def __call__(self, event, context): pass\nmain = C()", True),
        ("class C:\n def run(self, event): pass\nmain = C().run", False),
        ("class C:\n @classmethod\n def run(cls, event, context): pass\nmain = C.run", True),
        (
            "import functools\ndef deco(f):\n @functools.wraps(f)\n def inner(*a): return f(*a)\n return inner\n"
            "@deco\ndef main(event, context): pass",
            True,
        ),
    ],
)
def test_a_handler_gets_a_context_when_it_takes_two(code, source: str, wants_context: bool):
    handler, wants = code(source)
    assert callable(handler) and wants is wants_context


@pytest.mark.parametrize(
    ("source", "kind", "type_name"),
    [
        ("def other(): pass", ErrorKind.HANDLER, "HandlerMissing"),
        ("main = None", ErrorKind.HANDLER, "HandlerMissing"),
        ("main = 7", ErrorKind.HANDLER, "HandlerNotCallable"),
        ("def main(): pass", ErrorKind.HANDLER, "HandlerSignature"),
        ("def main(*, key): pass", ErrorKind.HANDLER, "HandlerSignature"),
        ("def main(a, b, c): pass", ErrorKind.HANDLER, "HandlerSignature"),
        ("import nowhere_at_all", ErrorKind.IMPORT, "ModuleNotFoundError"),
        ("def main(:", ErrorKind.IMPORT, "SyntaxError"),
        ("raise KeyboardInterrupt", ErrorKind.IMPORT, "KeyboardInterrupt"),
        ("import sys; sys.exit(2)", ErrorKind.IMPORT, "SystemExit"),
        ("1 / 0", ErrorKind.IMPORT, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded_is_a_failure_of_its_kind(code, source: str, kind: str, type_name: str):
    with pytest.raises(Failure) as caught:
        code(source)
    assert (caught.value.payload["kind"], caught.value.payload["type"]) == (kind, type_name)


def test_a_handler_in_a_package(code, tmp_path: Path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "web.py").write_text("def handle(event, context): pass\n")
    handler, wants = worker._load("pkg.web.handle", str(tmp_path))
    assert handler.__name__ == "handle" and wants


def describe(code, source: str) -> dict:
    handler, _ = code(source)
    try:
        handler(None)
    except BaseException as error:
        return worker._described(ErrorKind.EXCEPTION, error).payload
    raise AssertionError("it did not raise")


def test_a_traceback_has_the_users_frames_and_names_only(code):
    payload = describe(code, "def inner():\n    raise ValueError('no')\n\ndef main(param):\n    inner()\n")
    text = "\n".join(payload["traceback"])
    assert payload["message"] == "no" and payload["type"] == "ValueError"
    assert 'File "user_main.py", line 2, in inner' in text
    assert payload["traceback"][-1] == "ValueError: no"


def test_frames_of_the_worker_itself_are_left_out(code):
    with pytest.raises(Failure) as caught:
        code("1 / 0")
    lines = [line for line in caught.value.payload["traceback"] if line.strip().startswith("File")]
    assert [line.strip().split(",")[0] for line in lines] == ['File "user_main.py"']


def test_a_cause_is_kept(code):
    payload = describe(
        code,
        "def main(param):\n    try:\n        {}['x']\n    except KeyError as e:\n        raise OSError('y') from e\n",
    )
    text = "\n".join(payload["traceback"])
    assert "KeyError: 'x'" in text and "direct cause" in text and text.endswith("OSError: y")


def test_an_exception_that_cannot_be_described_is_described_all_the_same(code):
    payload = describe(
        code,
        "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit\n\ndef main(param):\n    raise Odd\n",
    )
    assert payload["type"] == "Odd" and "description failed" in payload["message"]


def test_long_messages_and_tracebacks_are_cut(code):
    payload = describe(code, "def main(param):\n    raise ValueError('x' * 100_000)\n")
    assert len(payload["message"]) == worker._MESSAGE_CHARACTERS_MAX
    assert all(len(line) <= 2000 for line in payload["traceback"])
    source = (
        "def main(param, n=0):\n    try:\n        if n == 90:\n            raise KeyError\n        main(0, n + 1)\n"
        "    except Exception:\n        raise ValueError(n)\n"
    )
    payload = describe(code, source)
    assert len(payload["traceback"]) <= worker._TRACEBACK_LINES_MAX + 1
    assert any("lines ..." in line for line in payload["traceback"])


ASSIGNMENT = {
    "function": "f",
    "version": "v",
    "handler": "user_main.main",
    "environ": {},
    "memory_bytes": 1,
    "result_bytes": 100,
    "environment_is_new": False,
}


@pytest.fixture
def checked(code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that was assigned for a check; `checked(names)` sends the check's frame and gives the answer."""
    environment = tmp_path / "env"
    (environment / "dep-1.dist-info").mkdir(parents=True)
    (environment / "dep.py").write_text("x = 1\n")
    (environment / "dep-1.dist-info" / "RECORD").write_text("dep.py,sha256=x,6\n")
    owners = ownership.file_owners(str(environment))
    monkeypatch.setattr(ownership, "ENVIRONMENT", str(environment))
    monkeypatch.setattr(ownership, "file_owners", lambda: owners)
    monkeypatch.setattr(sys, "path", [*sys.path, str(environment)])
    monkeypatch.chdir(tmp_path)

    def check(*names: str, source: str = "def main(param): return param", is_check: bool = True):
        (tmp_path / "user_main.py").write_text(source)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            message = json.dumps({**ASSIGNMENT, "is_check": is_check}).encode()
            function = worker.Function(message, theirs.fileno(), str(tmp_path))
            ours.sendall(pack(FrameKind.CHECK, b"id", json.dumps(names).encode(), 1000))
            goes_on = function.serve_one()
            data = ours.recv(1 << 16)
        _, kind, id_length, length, _, _ = HEADER.unpack_from(data)
        assert len(data) == HEADER_BYTES + id_length + length
        return kind, json.loads(data[HEADER_BYTES + id_length :]), goes_on

    return check


def test_a_check_answers_what_the_imports_cost_by_distribution(checked):
    kind, costs, goes_on = checked("dep", "json")
    assert kind == FrameKind.RESULT and goes_on
    assert set(costs) == {"", "dep"}, "the standard library is charged to who imports it"
    assert all(ms >= 0 and size >= 0 for ms, size in costs.values())


def test_what_the_handler_imports_is_measured_too(checked):
    _, costs, _ = checked(source="import dep\n\ndef main(param): return param")
    assert set(costs) == {"", "dep"}


def test_a_declared_module_that_cannot_be_imported_fails_the_check(checked):
    kind, failure, _ = checked("dep", "nowhere_at_all")
    assert (kind, failure["kind"], failure["type"]) == (FrameKind.ERROR, ErrorKind.IMPORT, "ModuleNotFoundError")


def test_a_handler_that_cannot_be_loaded_fails_the_check_and_ends_the_helper(checked):
    kind, failure, goes_on = checked("dep", source="import nowhere_at_all")
    assert (kind, failure["kind"], goes_on) == (FrameKind.ERROR, ErrorKind.IMPORT, False)


def test_nothing_is_measured_after_a_check(checked):
    originals = [loader.exec_module for loader in (SourceFileLoader, ExtensionFileLoader)]
    checked("dep", "nowhere_at_all")
    assert [loader.exec_module for loader in (SourceFileLoader, ExtensionFileLoader)] == originals


def test_a_context_counts_down_and_never_below_zero():
    context = Context("f", "v", 256 << 20)
    assert (context.function_name, context.function_version, context.memory_limit_in_mb) == ("f", "v", 256)
    assert context.get_remaining_time_in_millis() == 0
    context._deadline_s = time.monotonic() + 10
    assert 9_000 < context.get_remaining_time_in_millis() <= 10_000


def test_flushing_survives_streams_that_the_user_has_broken(monkeypatch: pytest.MonkeyPatch):
    class Broken:
        def flush(self) -> None:
            raise ValueError("closed")

    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", None)
    worker._flush()
