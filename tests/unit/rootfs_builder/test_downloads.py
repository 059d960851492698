"""Downloads from an index that breaks in each way, and who gets its password."""

import asyncio
import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from rootfs_builder import downloads
from runtime.errors import BuildError
from runtime.model import Locked
from tests.index import Fault, Index

FILE = "a-1-py3-none-any.whl"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of this machine's proxies and passwords."""
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def index() -> Iterator[Index]:
    with Index({FILE: CONTENT}) as index:
        yield index


def locked(url: str, content: bytes = CONTENT, *, size: int | None = None) -> Locked:
    return Locked(
        name="a",
        version="1",
        filename=FILE,
        url=url,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content) if size is None else size,
    )


def of(index: Index, **changes: int) -> Locked:
    return locked(index.file_url(FILE), **changes)


def fetch(
    place: Path, one: Locked, environ: Mapping[str, str] | None = None, *, bytes_max: int = 1 << 20, times: int = 1
) -> tuple[bytes, int]:
    """What is written, and how many bytes the progress tells."""
    ticks = []

    async def run() -> int:
        async with downloads.opened(environ or {}, bytes_max=bytes_max) as found:
            for _ in range(times):
                await found.fetch(one, place / FILE, lambda: ticks.append(found.done_bytes))
            return found.done_bytes

    done = asyncio.run(run())
    assert ticks == sorted(ticks)
    return (place / FILE).read_bytes(), done


def failed(place: Path, one: Locked, environ: Mapping[str, str] | None = None, **limits: int) -> BuildError:
    with pytest.raises(BuildError) as caught:
        fetch(place, one, environ, **limits)
    assert FILE in caught.value.message
    return caught.value


def tries(index: Index) -> int:
    return sum(each.path == f"/files/{FILE}" for each in index.seen)


def test_the_right_file_is_written(tmp_path: Path, index: Index):
    assert fetch(tmp_path, of(index)) == (CONTENT, len(CONTENT))
    assert tries(index) == 1


def test_a_size_that_is_not_known_is_no_trouble(tmp_path: Path, index: Index):
    assert fetch(tmp_path, of(index, size=0))[0] == CONTENT


def test_a_file_with_another_hash_is_refused_at_once(tmp_path: Path, index: Index):
    error = failed(tmp_path, locked(index.file_url(FILE), b"other", size=0))
    assert error.kind == "install"
    assert f"has another hash than the lock: sha256:{hashlib.sha256(CONTENT).hexdigest()}" in error.message
    assert "do not use it" in error.hint
    assert tries(index) == 1


def test_a_damaged_file_is_refused(tmp_path: Path, index: Index):
    index.faults[FILE] = Fault.DAMAGE
    assert "has another hash than the lock" in failed(tmp_path, of(index)).message


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.ERROR, Fault.UNAVAILABLE])
def test_what_may_pass_is_tried_again_and_then_told(tmp_path: Path, index: Index, fault: Fault):
    index.faults[FILE] = fault
    error = failed(tmp_path, of(index))
    assert error.kind == "install" and error.message.startswith(f"cannot download {FILE}: ")
    assert "index_url" in error.hint
    assert fault is Fault.CUT or str(fault.value) in error.message
    assert tries(index) == downloads.TRIES


@pytest.mark.parametrize(("fault", "status"), [(Fault.NOT_FOUND, "404"), (Fault.FORBIDDEN, "403")])
def test_what_will_not_pass_is_told_at_once(tmp_path: Path, index: Index, fault: Fault, status: str):
    index.faults[FILE] = fault
    assert failed(tmp_path, of(index)).message == f"cannot download {FILE}: it answers {status}"
    assert tries(index) == 1


def test_a_silent_index_is_not_waited_for(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "QUIET_S", 0.01)
    for fault in (Fault.SILENCE, Fault.STALL):
        index.forget()
        index.faults[FILE] = fault
        assert failed(tmp_path, of(index)).message.startswith(f"cannot download {FILE}: ")
        assert tries(index) == downloads.TRIES


def test_an_index_that_is_down_is_told(tmp_path: Path, index: Index):
    with index.down():
        assert "Cannot connect" in failed(tmp_path, of(index)).message
    assert fetch(tmp_path, of(index))[0] == CONTENT


def test_a_failure_that_passes_leaves_the_whole_file(tmp_path: Path, index: Index):
    """What came before the cut counts neither in the progress nor towards the limit."""
    index.faults[FILE] = Fault.CUT

    class Once(dict[str, Fault]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            return self.pop(FILE, default) if name == FILE else default

    index.faults = Once(index.faults)
    assert fetch(tmp_path, of(index), bytes_max=len(CONTENT)) == (CONTENT, len(CONTENT))
    assert tries(index) == 2


def test_all_files_together_are_limited(tmp_path: Path, index: Index):
    error = failed(tmp_path, of(index), bytes_max=2 * len(CONTENT) - 1, times=2)
    assert error.kind == "limit" and "environment_bytes" in error.message and error.hint
    assert fetch(tmp_path, of(index), bytes_max=2 * len(CONTENT), times=2)[1] == 2 * len(CONTENT)


def test_more_than_the_limit_is_not_written(tmp_path: Path, index: Index):
    assert failed(tmp_path, of(index), bytes_max=1000).kind == "limit"
    assert (tmp_path / FILE).stat().st_size <= 1000
    assert tries(index) == 1


def test_a_target_that_cannot_be_written_is_no_fault_of_the_index(tmp_path: Path, index: Index):
    error = failed(tmp_path / "nowhere", of(index))
    assert error.kind == "internal" and error.message.startswith(f"cannot write {FILE}: ")


def test_several_are_fetched_at_a_time_and_no_more_than_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "AT_ONCE", 2)
    now, most = 0, 0

    async def answered(self: downloads.Downloads, one: Locked, target: Path, tick: object) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    monkeypatch.setattr(downloads.Downloads, "_try", answered)

    async def run() -> None:
        async with downloads.opened({}, bytes_max=1) as found:
            await asyncio.gather(*(found.fetch(locked("x"), tmp_path / FILE, lambda: None) for _ in range(6)))

    asyncio.run(run())
    assert most == 2


# --- passwords


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"])
def test_an_index_gets_its_password(tmp_path: Path, variable: str):
    with Index({FILE: CONTENT}, user="us er", password="p@ss:w%rd/") as index:
        url = f"http://us%20er:p%40ss%3Aw%25rd%2F@127.0.0.1:{index.port}/simple/"
        assert fetch(tmp_path, of(index), {variable: url})[0] == CONTENT
        assert index.credentials_seen == {"us er:p@ss:w%rd/"}


def test_each_of_several_indexes_gets_its_own(tmp_path: Path):
    with (
        Index({FILE: CONTENT}, user="one", password="first") as one,
        Index({FILE: CONTENT}, user="two", password="second") as two,
    ):
        environ = {"UV_INDEX": f"https://other.test/simple name={one.url_with_credentials} {two.url_with_credentials}"}
        for index in (one, two):
            fetch(tmp_path, of(index), environ)
            assert index.credentials_seen == {f"{index.user}:{index.password}"}


def test_a_password_goes_to_the_origin_of_its_index_only(tmp_path: Path, index: Index):
    for origin in (f"https://127.0.0.1:{index.port}", "http://127.0.0.1", f"http://localhost:{index.port}"):
        scheme, _, rest = origin.partition("://")
        fetch(tmp_path, of(index), {"UV_DEFAULT_INDEX": f"{scheme}://user:secret@{rest}/simple/"})
    assert index.credentials_seen == set()


def test_a_host_gets_its_password_of_netrc_unless_its_index_has_one(tmp_path: Path, index: Index):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login net password rc\nmachine other.test login o password o\n")
    environ = {"NETRC": str(tmp_path / "netrc")}
    fetch(tmp_path, of(index), environ)
    assert index.credentials_seen == {"net:rc"}
    index.forget()
    fetch(tmp_path, of(index), {**environ, "UV_INDEX": f"http://own:secret@127.0.0.1:{index.port}/simple/"})
    assert index.credentials_seen == {"own:secret"}


def test_a_proxy_of_the_process_s_variables_is_asked(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch):
    """The test's index answers for any host, as a proxy would."""
    one = locked(f"http://index.test/files/{FILE}")
    for proxy in (f"http://127.0.0.1:{index.port}", f"127.0.0.1:{index.port}"):
        monkeypatch.setenv("http_proxy", proxy)
        assert fetch(tmp_path, one)[0] == CONTENT
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(tmp_path, of(index))[0] == CONTENT


def test_a_wrong_password_is_told_without_the_password(tmp_path: Path):
    with Index({FILE: CONTENT}, user="user", password="right") as index:
        environ = {"UV_DEFAULT_INDEX": f"http://user:wrongsecret@127.0.0.1:{index.port}/simple/"}
        error = failed(tmp_path, of(index), environ)
        assert error.message == f"cannot download {FILE}: it answers 401"
        with index.down():
            assert "wrongsecret" not in str(failed(tmp_path, of(index), environ))


def test_a_password_in_the_file_s_own_address_is_neither_sent_nor_told(tmp_path: Path, index: Index):
    url = f"http://user:addresssecret@127.0.0.1:{index.port}/files/{FILE}"
    assert fetch(tmp_path, locked(url))[0] == CONTENT
    assert index.credentials_seen == set()
    with index.down():
        assert "addresssecret" not in str(failed(tmp_path, locked(url)))


@contextmanager
def redirecting(target: str) -> Iterator[tuple[str, list[str]]]:
    """A server whose every answer leads to target; and the passwords that it was sent."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.001})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_redirect_to_another_host_takes_no_password_along(tmp_path: Path, index: Index):
    with redirecting(index.file_url(FILE)) as (url, seen):
        environ = {"UV_DEFAULT_INDEX": url.replace("://", "://user:secret@")}
        assert fetch(tmp_path, locked(f"{url}/{FILE}"), environ)[0] == CONTENT
    assert len(seen) == 1 and seen[0].startswith("Basic ")
    assert index.credentials_seen == set()


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "/again"])
def test_a_redirect_to_nowhere_ends(tmp_path: Path, target: str):
    with redirecting(target) as (url, _):
        assert failed(tmp_path, locked(f"{url}/{FILE}")).message.startswith(f"cannot download {FILE}: ")


# --- addresses that are none of an index


def test_files_of_this_machine_are_read_for_an_index_that_is_a_folder_only(tmp_path: Path):
    place = tmp_path / "wheel house"
    place.mkdir()
    (place / "source").write_bytes(CONTENT)
    one = locked(f"file://{place}/source")
    for environ in ({}, {"UV_DEFAULT_INDEX": "https://index.test/file:/x"}):
        error = failed(tmp_path, one, environ)
        assert error.message == f"the index names {FILE} at an address of this machine"
    for environ in ({"UV_FIND_LINKS": str(place)}, {"UV_INDEX": f"file://{place}"}):
        assert fetch(tmp_path, one, environ) == (CONTENT, len(CONTENT))
        escaped = locked(one.url.replace(" ", "%20"))
        assert fetch(tmp_path, escaped, environ)[0] == CONTENT
        error = failed(tmp_path, locked(f"file://{tmp_path}/absent"), environ)
        assert error.message == f"cannot download {FILE}: No such file or directory"


@pytest.mark.parametrize("url", ["ftp://index.test/x", "x", "", "data:text/plain,x", "gopher://x/"])
def test_other_addresses_are_refused(tmp_path: Path, url: str):
    assert failed(tmp_path, locked(url)).message == f"the index names {FILE} at no http address"
