"""Every bad input of the issue: a problem document that says what is wrong, nothing half-deployed, daemon alive."""

import io
import tarfile
import warnings
import zipfile
import zlib

import pytest

from tests.pagurusd import BOUNDARY, Answer, Daemon, archive, form

ECHO = "def main(param):\n    return param\n"


@pytest.fixture
def bad(shared: Daemon):
    """The daemon; afterwards it lives, and nothing that the test tried is there."""
    before = {one["name"] for one in shared.get("/v1/functions")["functions"]}
    yield shared
    assert {one["name"] for one in shared.get("/v1/functions")["functions"]} == before
    shared.until(lambda: list(shared.scope.rubbish()) == [], "the builds' folders to go")
    assert shared.request("GET", "/readyz").status == 200


@pytest.fixture(scope="module")
def echo(shared: Daemon) -> Daemon:
    shared.deploy("echo", ECHO)
    return shared


def post(daemon: Daemon, body: bytes, name: str = "echo", **headers: str) -> Answer:
    return daemon.request("POST", f"/v1/functions/{name}/invocations", body, headers)


# --- invocations


def test_an_unknown_function(bad: Daemon):
    answer = bad.invoke("nobody")
    assert (answer.status, answer.word) == (404, "unknown-function") and "nobody" in answer.json["detail"]


@pytest.mark.parametrize("body", [b"{", b"{'a': 1}", b"nul", b"1 2", b"\xff\xfe", b'"\xff"', b"[" * 100_000, b"NaN"])
def test_malformed_json(echo: Daemon, bad: Daemon, body: bytes):
    answer = post(bad, body)
    assert (answer.status, answer.word) == (400, "malformed-json")
    assert echo.result("echo", 1) == 1


def test_a_body_of_seven_megabytes(echo: Daemon, bad: Daemon):
    answer = post(bad, b'"' + b"x" * (7 << 20) + b'"')
    assert (answer.status, answer.word) == (413, "request-too-large") and "request_bytes" in answer.json["detail"]
    assert echo.result("echo", "y" * (5 << 20)) == "y" * (5 << 20)


def test_an_empty_body_is_null(echo: Daemon):
    assert post(echo, b"").json is None


# --- names


@pytest.mark.parametrize(
    "name", ["A", "1a", "-a", "a_b", "a.b", "a" * 64, "a" * 300, "%2e%2e", "a%2Fb", "a%00b", "%C3%A9"]
)
def test_a_name_that_breaks_the_rule(bad: Daemon, name: str):
    answer = bad.put(name, archive(ECHO))
    assert (answer.status, answer.word) == (400, "invalid-name"), answer.body
    assert bad.invoke(name).status in (400, 404)


@pytest.mark.parametrize("name", ["a/b", "a//b", "../x", ""])
def test_a_name_with_slashes(bad: Daemon, name: str):
    answer = bad.put(name, archive(ECHO))
    assert (answer.status, answer.word) in ((404, "not-found"), (400, "invalid-name")), answer.body


# --- archives


def tar(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as found:
        for member in members:
            entry, data = member if isinstance(member, tuple) else (member, b"")
            entry.size = len(data)
            found.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def file(name: str, text: str = ECHO) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), text.encode()


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def zipped(*entries: tuple[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as found:
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        for name, data in entries:
            member = zipfile.ZipInfo(name)
            member.external_attr = (mode or 0o100644) << 16
            found.writestr(member, data)
    return buffer.getvalue()


def bomb(total_bytes: int) -> bytes:
    """A zip of one entry of zeros."""
    buffer = io.BytesIO()
    chunk = bytes(1 << 20)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as found:
        found.writestr("main.py", ECHO)
        with found.open("zeros", "w", force_zip64=True) as entry:
            for _ in range(total_bytes >> 20):
                entry.write(chunk)
    return buffer.getvalue()


def gzip_of_zeros(total_bytes: int) -> bytes:
    """A tar.gz whose header promises `total_bytes` and whose stream delivers them."""
    header = tarfile.TarInfo("zeros")
    header.size = total_bytes
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(header.tobuf())]
    chunk = bytes(1 << 20)
    parts += [packer.compress(chunk) for _ in range(total_bytes >> 20)]
    return b"".join([*parts, packer.flush()])


ARCHIVES = {
    "zip absolute": lambda: zipped(("main.py", ECHO.encode()), ("/etc/cron.d/x", b"x")),
    "zip ..": lambda: zipped(("main.py", ECHO.encode()), ("../../x", b"x")),
    "zip .. inside": lambda: zipped(("main.py", ECHO.encode()), ("a/../../x", b"x")),
    "zip link out": lambda: zipped(("main.py", ECHO.encode()), ("x", b"/etc/passwd"), mode=0o120777),
    "zip device": lambda: zipped(("main.py", ECHO.encode()), mode=0o020666),
    "zip twice": lambda: zipped(("main.py", ECHO.encode()), ("main.py", b"other")),
    "zip file and folder": lambda: zipped(("main.py", ECHO.encode()), ("main.py/x", b"other")),
    "tar absolute": lambda: tar(file("main.py"), file("/etc/cron.d/x")),
    "tar ..": lambda: tar(file("main.py"), file("../x")),
    "tar link out": lambda: tar(file("main.py"), special("x", tarfile.SYMTYPE, "/etc/passwd")),
    "tar link up": lambda: tar(file("main.py"), special("x", tarfile.SYMTYPE, "../../x")),
    "tar write through a link": lambda: tar(file("main.py"), special("d", tarfile.SYMTYPE, "/tmp"), file("d/x")),
    "tar hard link out": lambda: tar(file("main.py"), special("x", tarfile.LNKTYPE, "/etc/passwd")),
    "tar device": lambda: tar(file("main.py"), special("x", tarfile.CHRTYPE)),
    "tar fifo": lambda: tar(file("main.py"), special("x", tarfile.FIFOTYPE)),
    "tar twice": lambda: tar(file("main.py"), file("main.py", "other")),
    "no archive": lambda: b"this is no archive at all",
    "empty": lambda: b"",
    "cut off": lambda: archive(ECHO)[:-30],
    "a name of 5000 bytes": lambda: zipped(("x" * 5000, b"x")),
    "a name of many lines": lambda: zipped(("a\nb" * 200, b"x")),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_bad(bad: Daemon, what: str):
    answer = bad.put("refused", ARCHIVES[what]())
    assert (answer.status, answer.word) == (422, "build-archive"), answer.body.decode()
    assert len(answer.json["detail"]) > 10


@pytest.mark.parametrize("make", [bomb, gzip_of_zeros])
def test_an_archive_of_ten_gigabytes_of_zeros(bad: Daemon, make):
    data = make(1 << 30)  # the limit is a fortieth of this; 10 GB take a minute to make and no longer to refuse
    answer = bad.put("refused", data)
    assert answer.status == 422 and answer.word in ("build-limit", "build-archive"), answer.body.decode()
    assert "bytes" in answer.json["detail"]


def test_an_upload_that_is_too_large(bad: Daemon):
    answer = bad.put("refused", bytes(51 << 20))
    assert (answer.status, answer.word) == (413, "request-too-large") and "upload_bytes" in answer.json["detail"]


def test_too_many_entries(bad: Daemon):
    answer = bad.put("refused", zipped(*((f"f{number}", b"") for number in range(20_001))))
    assert answer.status == 422 and "archive_entries" in answer.json["detail"], answer.body.decode()


# --- multipart


def put(daemon: Daemon, body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> Answer:
    return daemon.request("PUT", "/v1/functions/refused", body, {"Content-Type": kind})


def test_bodies_that_are_no_deploy(bad: Daemon):
    assert put(bad, b"{}", "application/json").word == "unsupported-media-type"
    for body in (b"", b"garbage", form({"settings": b"{}"}), form({"code": archive(ECHO), "other": b"x"})):
        answer = put(bad, body)
        assert (answer.status, answer.word) == (400, "malformed-upload"), (body[:50], answer.body)
    cut = form({"code": archive(ECHO)})[:-40]
    assert put(bad, cut).status in (400, 422)


SETTINGS = [
    b"{",
    b"[]",
    b'{"unknown": 1}',
    b'{"handler": 7}',
    b'{"handler": "main"}',
    b'{"handler": "main.main; import os"}',
    b'{"handler": "../x.main"}',
    b'{"runtime": "python9.9"}',
    b'{"limits": {"memory_bytes": 1}}',
    b'{"limits": {"memory_bytes": -1}}',
    b'{"limits": {"memory_bytes": 1e99}}',
    b'{"limits": {"timeout_s": 0}}',
    b'{"limits": {"timeout_s": "x"}}',
    b'{"limits": {"pids": 1}}',
    b'{"limits": {"cpu_millis": 0}}',
    b'{"limits": {"gpus": 1}}',
    b'{"environ": {"A=B": "x"}}',
    b'{"environ": {"": "x"}}',
    b'{"environ": {"A": 1}}',
    b'{"environ": {"A": "\\u0000"}}',
    b'{"requirements": 1}',
    b"\xff",
    b"[" * 10_000,
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_that_are_wrong(bad: Daemon, settings: bytes):
    answer = put(bad, form({"settings": settings, "code": archive(ECHO)}))
    assert (answer.status, answer.word) == (400, "invalid-settings"), answer.body.decode()


# --- requirements


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ("no-such-distribution-of-pagurus-tests\n", ["no-such-distribution"]),
        ("requests==0.0.0.1\n", ["requests"]),
        ("requests<2\nrequests>=2\n", ["requests"]),
        ("requests==2.31.0\nurllib3==1.20\n", ["urllib3"]),
        ("this is !! not a requirement\n", []),
        ("-e .\n", []),
        ("--index-url http://192.0.2.1/simple\nrequests\n", []),
        ("requests @ file:///etc/passwd\n", []),
        ("-r /etc/passwd\n", []),
    ],
)
def test_requirements_that_cannot_be_met(bad: Daemon, requirements: str, words: list[str]):
    answer = bad.put("refused", archive({"main.py": ECHO, "requirements.txt": requirements}))
    assert answer.status == 422 and answer.word == "build-requirements", answer.body.decode()
    for word in words:
        assert word in answer.json["detail"]
    assert "root:" not in answer.json["detail"]


def test_a_package_whose_import_fails(bad: Daemon):
    source = {"main.py": "def main(param):\n    return 1\n", "requirements.txt": "flask==2.0.0\nwerkzeug==3.0.0\n"}
    answer = bad.put("refused", archive(source))
    assert (answer.status, answer.word) == (422, "function-import-failed"), answer.body.decode()
    assert answer.json["error"]["type"] == "ImportError"


# --- the rest of HTTP


def test_paths_and_methods(bad: Daemon):
    assert bad.request("GET", "/nowhere").word == "not-found"
    answer = bad.request("POST", "/v1/functions")
    assert answer.word == "method-not-allowed" and answer.headers["Allow"] == "GET"
    assert bad.request("GET", "/v1/invocations/none").word == "unknown-invocation"
    assert bad.request("GET", "/v1/invocations?limit=0").word == "invalid-query"
    assert bad.request("GET", "/v1/status", headers={"Host": "example.com"}).word == "forbidden-host"
    assert bad.request("GET", "/v1/status", headers={"Origin": "http://example.com"}).word == "forbidden-host"
