"""Bad requests and bad uploads are refused in clear words; nothing is half-deployed, and the daemon lives."""

import gzip
import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator

import pytest

from tests.e2e_daemon import Daemon, tar

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAIN = "def main(param):\n    return param\n"
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_changes(daemon: Daemon) -> Iterator[None]:
    """After each test the same functions are deployed, nothing lies in staging, and the same gateway lives."""
    if "works" not in daemon.functions():
        daemon.must_deploy("works", MAIN)
    before, gateway = daemon.functions(), daemon.gateway_pid
    code = sorted(path.name for path in (daemon.state / "code").iterdir())
    yield
    assert daemon.functions() == before
    daemon.assert_clean()
    daemon.until(lambda: sorted(path.name for path in (daemon.state / "code").iterdir()) == code)
    assert daemon.invoke("works", 1).result == 1
    assert daemon.gateway_pid == gateway


def of_tar(*members: tarfile.TarInfo) -> bytes:
    """A tar of main.py and these members, which are one byte long if they are files."""
    buffer = io.BytesIO(tar(MAIN))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for member in members:
            member.size = 1 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def of_zip(*names: str, mode: int = stat.S_IFREG | 0o644, content: str = "x") -> bytes:
    """A zip of main.py and these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", MAIN)
        for name in names:
            one = zipfile.ZipInfo(name)
            one.create_system, one.external_attr = 3, mode << 16
            archive.writestr(one, content)
    return buffer.getvalue()


def zip_with_duplicate() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return of_zip("a.py", "a.py")


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    return buffer.getvalue()


def zeros_tar_gz(size: int = 10 << 30, piece: int = 64 * MIB) -> bytes:
    """10 GB of zeros as gzip streams one after the other, as parallel compressors make them: a few MB."""
    header = tarfile.TarInfo("zeros.bin")
    header.size = size
    return gzip.compress(header.tobuf(tarfile.GNU_FORMAT)) + gzip.compress(bytes(piece)) * (size // piece)


def zeros_zip(size: int = 300 * MIB) -> bytes:
    """A zip that unpacks to more than unpacked_bytes; zip has no way to repeat a stream, so it is not 10 GB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("zeros.bin", bytes(size))
    return buffer.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "tar, absolute path": (lambda: of_tar(member("/etc/passwd")), "build-archive", "has an absolute path"),
    "tar, dots": (lambda: of_tar(member("../../up.py")), "build-archive", "has '..' in its path"),
    "tar, dots inside": (lambda: of_tar(member("a/../../up.py")), "build-archive", "has '..' in its path"),
    "tar, link out": (
        lambda: of_tar(member("out", tarfile.SYMTYPE, "/etc/shadow")),
        "build-archive",
        "'out' of the archive is a symbolic link",
    ),
    "tar, hard link": (
        lambda: of_tar(member("hard", tarfile.LNKTYPE, "/etc/shadow")),
        "build-archive",
        "is a hard link",
    ),
    "tar, device": (lambda: of_tar(member("null", tarfile.CHRTYPE)), "build-archive", "is a device"),
    "tar, block device": (lambda: of_tar(member("disk", tarfile.BLKTYPE)), "build-archive", "is a device"),
    "tar, fifo": (lambda: of_tar(member("pipe", tarfile.FIFOTYPE)), "build-archive", "is a named pipe"),
    "tar, twice": (
        lambda: of_tar(member("a.py"), member("a.py")),
        "build-archive",
        "'a.py' of the archive is there twice",
    ),
    "tar, file below file": (lambda: of_tar(member("a"), member("a/b")), "build-archive", "which is a file"),
    "tar, empty": (empty_tar, "build-archive", "neither zip nor tar"),
    "tar, cut": (lambda: tar({"main.py": MAIN, "big.txt": "x" * 5000})[:2000], "build-archive", "cannot read"),
    "tar, 10 GB of zeros": (zeros_tar_gz, "build-limit", "unpacks to more than 262144000 bytes"),
    "zip, absolute path": (lambda: of_zip("/etc/passwd"), "build-archive", "has an absolute path"),
    "zip, drive": (lambda: of_zip("C:/x"), "build-archive", "has an absolute path"),
    "zip, dots": (lambda: of_zip("../up.py"), "build-archive", "has '..' in its path"),
    "zip, link out": (
        lambda: of_zip("out", mode=stat.S_IFLNK | 0o777, content="/etc/shadow"),
        "build-archive",
        "is a symbolic link",
    ),
    "zip, device": (
        lambda: of_zip("null", mode=stat.S_IFCHR | 0o666),
        "build-archive",
        "neither a file nor a directory",
    ),
    "zip, fifo": (lambda: of_zip("pipe", mode=stat.S_IFIFO | 0o666), "build-archive", "neither a file nor a directory"),
    "zip, twice": (zip_with_duplicate, "build-archive", "'a.py' of the archive is there twice"),
    "zip, empty": (empty_zip, "build-archive", "no files"),
    "zip, cut": (lambda: of_zip("a.py")[:80], "build-archive", "cannot read the zip archive"),
    "zip, zeros": (zeros_zip, "build-limit", "unpacks to more than 262144000 bytes"),
    "no bytes": (lambda: b"", "build-archive", "no bytes"),
    "garbage": (lambda: b"this is no archive" * 100, "build-archive", "archive"),
    "long name": (lambda: of_tar(member("a" * 300 + ".py")), "build-archive", "longer than 255 bytes"),
}


@pytest.mark.parametrize(("make", "word", "rule"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_bad_archive_is_refused_with_the_rule(daemon, make, word, rule):
    archive = make()
    assert len(archive) < 12 * MIB
    assert rule in daemon.deploy("bad", archive).problem(word, 422)["detail"]
    daemon.get("/v1/functions/bad").problem("unknown-function", 404)


def test_a_bad_archive_leaves_the_deployed_version_alone(daemon):
    version = daemon.get("/v1/functions/works").json["version"]
    daemon.deploy("works", of_tar(member("/etc/passwd"))).problem("build-archive", 422)
    daemon.deploy("works", "def main(").problem("function-import-failed", 422)
    assert daemon.get("/v1/functions/works").json["version"] == version


@pytest.mark.parametrize("many", [20_001])
def test_too_many_entries_are_refused(daemon, many):
    archive = gzip.compress(tar({"main.py": MAIN} | {f"d/{number}": "" for number in range(many)}), 1)
    assert "more than 20000 entries" in daemon.deploy("bad", archive).problem("build-limit", 422)["detail"]


def test_an_upload_beyond_the_limit_is_refused(daemon):
    answer = daemon.deploy("bad", os.urandom(MIB) * 51)
    assert "upload_bytes is 52428800 bytes" in answer.problem("request-too-large", 413)["detail"]


REQUIREMENTS = {
    "no such package": ("pagurus-has-no-such-package", "build-requirements", "pagurus-has-no-such-package"),
    "no such version": ("six==999.0", "build-requirements", "six"),
    "conflict": ("six==1.16.0\nsix==1.17.0", "build-requirements", "six"),
    "URL": ("six @ https://example.invalid/six-1.17.0-py2.py3-none-any.whl", "build-requirements", "six"),
    "bare URL": ("https://example.invalid/six.whl", "build-requirements", "example.invalid"),
    "local path": ("./package", "build-requirements", "./package"),
    "git": ("git+https://example.invalid/x.git", "build-requirements", "git+"),
    "editable": ("-e .", "build-requirements", "-e"),
    "other index": ("--index-url https://example.invalid/simple\nsix", "build-requirements", "--index-url"),
    "other file": ("-r /etc/passwd", "build-requirements", "-r"),
    "no requirement": ("=== what", "build-requirements", "==="),
}


@pytest.mark.parametrize(("text", "word", "named"), REQUIREMENTS.values(), ids=REQUIREMENTS)
def test_bad_requirements_are_refused_and_named(daemon, text, word, named):
    environments = sorted(path.name for path in (daemon.state / "environments").iterdir())
    assert named in daemon.deploy("bad", MAIN, requirements=text).problem(word, 422)["detail"]
    assert sorted(path.name for path in (daemon.state / "environments").iterdir()) == environments


HANDLERS = {
    "missing": (MAIN, "main.other", "function-handler-invalid", "HandlerMissing", "no 'other'"),
    "not callable": ("main = 3\n", "main.main", "function-handler-invalid", "HandlerNotCallable", "a int"),
    "no parameters": (
        "def main():\n    pass\n",
        "main.main",
        "function-handler-invalid",
        "HandlerSignature",
        "0 positional",
    ),
    "no module": (MAIN, "other.main", "function-import-failed", "ModuleNotFoundError", "'other'"),
    "syntax": ("def main(:\n", "main.main", "function-import-failed", "SyntaxError", "syntax"),
    "raises": (
        "def f():\n    raise OSError('early')\nf()\n",
        "main.main",
        "function-import-failed",
        "OSError",
        "early",
    ),
    "missing package": (
        "import pandas_is_not_there\n" + MAIN,
        "main.main",
        "function-import-failed",
        "ModuleNotFoundError",
        "No module named 'pandas_is_not_there'",
    ),
    "exits": ("import sys\nsys.exit(1)\n", "main.main", "function-import-failed", "SystemExit", "sys.exit(1)"),
    "dies": ("import os\nos._exit(4)\n", "main.main", "function-exited", "SystemExit", "4"),
    "crashes": ("import ctypes\nctypes.string_at(0)\n", "main.main", "function-crashed", "SIGSEGV", ""),
    "eats memory": ("held = bytearray(1 << 30)\n", "main.main", "function-out-of-memory", "MemoryError", ""),
}


@pytest.mark.parametrize(("code", "handler", "word", "error", "message"), HANDLERS.values(), ids=HANDLERS)
def test_a_handler_that_cannot_be_imported_is_not_deployed(daemon, code, handler, word, error, message):
    document = daemon.deploy("bad", code, handler=handler).problem(word, 422)
    assert document["error"]["type"] == error and message in document["error"]["message"]


def test_an_import_that_raises_shows_its_traceback(daemon):
    document = daemon.deploy("bad", "def f():\n    raise OSError('early')\nf()\n").problem(
        "function-import-failed", 422
    )
    trace = document["error"]["traceback"]
    assert 'File "main.py", line 3, in <module>' in trace and 'File "main.py", line 2, in f' in trace
    assert "/code" not in trace and "worker.py" not in trace


SETTINGS = {
    "memory": ({"limits": {"memory_bytes": 1}}, "limits.memory_bytes is 1: it must be"),
    "timeout": ({"limits": {"timeout_s": 0}}, "limits.timeout_s is 0: it must be"),
    "negative": ({"limits": {"pids": -1}}, "limits.pids is -1"),
    "memory as text": ({"limits": {"memory_bytes": "1 GB"}}, "memory_bytes"),
    "unknown": ({"colour": "blue"}, "colour"),
    "unknown limit": ({"limits": {"colours": 3}}, "colours"),
    "environ number": ({"environ": {"A": 1}}, "environ"),
    "environ list": ({"environ": ["A=1"]}, "environ"),
    "environ name": ({"environ": {"A=B": "1"}}, "environ has 'A=B'"),
    "environ size": ({"environ": {"A": "x" * 4096}}, "environ has 4097 bytes in all, the limit is 4096"),
    "runtime": ({"runtime": "python2.7"}, "runtime is 'python2.7', this node has python3."),
    "handler": ({"handler": "main"}, "handler is 'main', not MODULE.FUNCTION"),
    "handler path": ({"handler": "../main.main"}, "not MODULE.FUNCTION"),
    "not an object": ([], "settings"),
}


@pytest.mark.parametrize(("settings", "named"), SETTINGS.values(), ids=SETTINGS)
def test_bad_settings_are_refused_and_named(daemon, settings, named):
    answer = daemon.put("bad", {"settings": json.dumps(settings).encode(), "code": tar(MAIN)})
    assert named in answer.problem("invalid-settings", 400)["detail"]


UPLOADS: dict[str, tuple[dict[str, bytes], str, int]] = {
    "settings that are no JSON": ({"settings": b"{", "code": tar(MAIN)}, "invalid-settings", 400),
    "no code": ({"settings": b"{}"}, "malformed-upload", 400),
    "unknown part": ({"code": tar(MAIN), "colour": b"blue"}, "malformed-upload", 400),
    "large settings": ({"settings": b'{"a": "%s"}' % (b"x" * 300_000), "code": b""}, "request-too-large", 413),
}


@pytest.mark.parametrize(("parts", "word", "status"), UPLOADS.values(), ids=UPLOADS)
def test_a_bad_upload_is_refused(daemon, parts, word, status):
    daemon.put("bad", parts).problem(word, status)


@pytest.mark.parametrize("kind", ["application/zip", "application/json", "text/plain"])
def test_an_upload_of_another_type_is_refused(daemon, kind):
    answer = daemon.request("PUT", "/v1/functions/bad", tar(MAIN), content_type=kind)
    assert kind in answer.problem("unsupported-media-type", 415)["detail"]


def test_a_multipart_body_that_is_none_is_refused(daemon):
    for kind in ("multipart/form-data", "multipart/form-data; boundary=other"):
        daemon.request("PUT", "/v1/functions/bad", b"nothing of it", content_type=kind).problem("malformed-upload", 400)


NAMES = {"upper case": "Bad", "long": "a" * 300, "digit": "1a", "underscore": "a_b", "dot": "a.b", "slash": "a%2Fb"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_breaks_the_rule_is_refused(daemon, name):
    answers = [
        daemon.deploy(name, MAIN),
        daemon.invoke(name),
        daemon.get(f"/v1/functions/{name}"),
        daemon.request("DELETE", f"/v1/functions/{name}"),
    ]
    for answer in answers:
        assert "at most 63 characters" in answer.problem("invalid-name", 400)["detail"]


def test_a_name_with_a_slash_is_another_path(daemon):
    daemon.deploy("a/b", MAIN).problem("not-found", 404)
    daemon.deploy("../a", MAIN).problem("not-found", 404)


def test_an_unknown_function_is_said_to_be_one(daemon):
    for answer in (
        daemon.invoke("nobody"),
        daemon.get("/v1/functions/nobody"),
        daemon.request("DELETE", "/v1/functions/nobody"),
        daemon.request("DELETE", "/v1/sandboxes?function=nobody"),
    ):
        assert "nobody" in answer.problem("unknown-function", 404)["detail"]
    daemon.get("/v1/invocations/nobody").problem("unknown-invocation", 404)
    daemon.request("DELETE", "/v1/sandboxes/nobody").problem("unknown-sandbox", 404)


BODIES = {
    "cut": b'{"a": ',
    "single quotes": b"{'a': 1}",
    "NaN": b"NaN",
    "two": b"1 2",
    "not UTF-8": b'"\xff"',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_parameter_that_is_no_json_is_refused(daemon, body):
    daemon.request("POST", "/v1/functions/works/invocations", body).problem("malformed-json", 400)


def test_a_parameter_beyond_the_limit_is_refused(daemon):
    body = b'"%s"' % (b"x" * 7_000_000)
    answer = daemon.request("POST", "/v1/functions/works/invocations", body)
    assert "request_bytes is 6291456 bytes" in answer.problem("request-too-large", 413)["detail"]


def test_a_parameter_at_the_limit_is_taken(daemon):
    body = b'"%s"' % (b"x" * (6 * MIB - 2))
    answer = daemon.request("POST", "/v1/functions/works/invocations", body)
    assert answer.status == 200 and answer.body == body


def test_queries_that_make_no_sense_are_refused(daemon):
    for query in ("limit=0", "limit=1001", "limit=x", "colour=blue"):
        daemon.get(f"/v1/invocations?{query}").problem("invalid-query", 400)
    daemon.request("DELETE", "/v1/sandboxes").problem("invalid-query", 400)


def test_a_page_of_another_host_is_refused(daemon):
    daemon.request("GET", "/v1/functions", host="evil.example").problem("forbidden-host", 403)
    daemon.request("GET", "/v1/functions", origin="http://evil.example").problem("forbidden-host", 403)
