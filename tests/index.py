"""A package index on 127.0.0.1 that a test fills and breaks: PEP 503 and 691 pages, PEP 658 metadata, files.

Its threads live in the test's process, from `with Index(...)` to the end of the block, which waits for all of them.
"""

import base64
import contextlib
import enum
import hashlib
import html
import http
import http.server
import io
import json
import re
import socket
import threading
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

ALL = "*"
WAIT_S = 20.0  # only a failing test waits for it
_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "application/vnd.pypi.simple.v1+html"


class Fault(enum.Enum):
    """What the index does instead of answering."""

    NOT_FOUND = 404
    FORBIDDEN = 403
    ERROR = 500
    UNAVAILABLE = 503
    SILENCE = "silence"  # takes the request and never answers
    STALL = "stall"  # answers the first half of the body, and no more
    CUT = "cut"  # closes after the first half of the body
    DAMAGE = "damage"  # as long as it should be, with one bit turned


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. credentials: 'user:password', '' if it brought none."""

    method: str
    path: str
    credentials: str
    accept: str
    user_agent: str


class Index:
    """Serves `files` (file name -> content) below url, from __enter__ to __exit__.

    faults: a project's normalised name (its page), a file's name (its download) or ALL -> Fault; may be changed at
    any time. hashes: file name -> the sha256 that the page tells instead of the true one, '' for none.
    user, password: required if user is not ''. has_metadata: whether PEP 658 metadata is offered; where it is not,
    uv reads METADATA out of the wheel. yanked: file names. cache_control: of all answers; with no-store
    counts do not depend on what clients remember.
    """

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        hashes: Mapping[str, str] | None = None,
        user: str = "",
        password: str = "",
        has_json: bool = True,
        has_metadata: bool = True,
        requires_python: Mapping[str, str] | None = None,
        yanked: tuple[str, ...] = (),
        cache_control: str = "no-store",
    ) -> None:
        self.files = dict(files or {})
        self.hashes = dict(hashes or {})
        self.faults: dict[str, Fault] = {}
        self.user, self.password = user, password
        self.has_json, self.has_metadata = has_json, has_metadata
        self.requires_python = dict(requires_python or {})
        self.yanked = yanked
        self.cache_control = cache_control
        self.seen: list[Seen] = []
        self.downloads: Counter[str] = Counter()  # file name -> bodies sent to the last byte
        self.pages: Counter[str] = Counter()  # normalised name -> project pages sent
        self._lock = threading.Condition()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._held: socket.socket | None = None
        self.port = 0

    # --- where it is

    @property
    def url(self) -> str:
        """For the setting index_url, and for pip and uv."""
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def url_with_credentials(self) -> str:
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.port}/simple/"

    def file_url(self, file: str) -> str:
        return f"http://127.0.0.1:{self.port}/files/{file}"

    # --- what it was asked

    @property
    def credentials_seen(self) -> set[str]:
        """'user:password' of all requests that brought some."""
        return {each.credentials for each in self.seen} - {""}

    def controlled(self, query: list[tuple[str, str]]) -> bytes:
        """What a Remote asks for."""
        for where, fault in query:
            if fault:
                self.faults[where] = Fault[fault]
            else:
                self.faults.pop(where, None)
        return json.dumps(self.downloads).encode()

    @property
    def remote(self) -> "Remote":
        return Remote(f"http://127.0.0.1:{self.port}/control")

    def forget(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.seen.clear()
            self.downloads.clear()
            self.pages.clear()

    def wait_seen(self, path: str, count: int = 1) -> None:
        """Block until requests for this path ('/simple/a/', '/files/a-1.0-py3-none-any.whl') have come."""
        with self._lock:
            came = self._lock.wait_for(lambda: sum(each.path == path for each in self.seen) >= count, WAIT_S)
            assert came, f"nobody asked for {path}, but for {[each.path for each in self.seen]}"

    def note(self, request: Seen) -> None:
        with self._lock:
            self.seen.append(request)
            self._lock.notify_all()

    def count(self, counter: Counter[str], key: str) -> None:
        with self._lock:
            counter[key] += 1

    # --- whether it is there

    def __enter__(self) -> "Index":
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._start(listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections inside the block. The port stays this index's."""
        self._stop()
        holder = socket.socket()  # bound and not listening: the kernel refuses, and gives the port to nobody else
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", self.port))
        try:
            yield
        finally:
            self._start(holder)

    def _start(self, listener: socket.socket) -> None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.listen(64)
        self._server = _Server(self, listener)
        self._thread = threading.Thread(target=self._server.serve, name="index")
        self._thread.start()

    def _stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.end()
            self._thread.join()
        self._server = self._thread = None

    # --- what it says

    def projects(self) -> set[str]:
        return {project_of(file) for file in self.files}

    def page(self, project: str, *, as_json: bool) -> bytes:
        """A project's page."""
        files = sorted(file for file in self.files if project_of(file) == project)
        if as_json:
            entries = [self._entry(file) for file in files]
            return json.dumps({"meta": {"api-version": "1.0"}, "name": project, "files": entries}).encode()
        lines = [self._anchor(file) for file in files]
        return ("<!DOCTYPE html>\n<html><body>\n" + "\n".join(lines) + "\n</body></html>\n").encode()

    def sha256(self, file: str) -> str:
        """The hash that the pages tell."""
        return self.hashes[file] if file in self.hashes else hashlib.sha256(self.files[file]).hexdigest()

    def metadata(self, file: str) -> bytes | None:
        """A wheel's METADATA, None if it has none."""
        if not self.has_metadata or not file.endswith(".whl"):
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(self.files[file])) as found:
                path = next((each for each in found.namelist() if each.endswith(".dist-info/METADATA")), None)
                return None if path is None else found.read(path)
        except (zipfile.BadZipFile, NotImplementedError, OSError):
            return None

    def _entry(self, file: str) -> dict[str, object]:
        digest, found = self.sha256(file), self.metadata(file)
        entry: dict[str, object] = {"filename": file, "url": f"../../files/{file}", "size": len(self.files[file])}
        entry["hashes"] = {"sha256": digest} if digest else {}
        entry["yanked"] = file in self.yanked
        if file in self.requires_python:
            entry["requires-python"] = self.requires_python[file]
        if found is not None:
            entry["core-metadata"] = {"sha256": hashlib.sha256(found).hexdigest()}
        return entry

    def _anchor(self, file: str) -> str:
        digest, found = self.sha256(file), self.metadata(file)
        attributes = f' href="../../files/{html.escape(file)}{f"#sha256={digest}" if digest else ""}"'
        if file in self.requires_python:
            attributes += f' data-requires-python="{html.escape(self.requires_python[file])}"'
        if found is not None:
            attributes += f' data-core-metadata="sha256={hashlib.sha256(found).hexdigest()}"'
        if file in self.yanked:
            attributes += ' data-yanked=""'
        return f"<a{attributes}>{html.escape(file)}</a><br/>"


class Remote:
    """An index as a process sees it that was forked from the one in which it runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def set(self, where: str, fault: Fault | None) -> None:
        self._ask({where: fault.name if fault else ""})

    def downloads(self) -> Counter[str]:
        return self._ask({})

    def _ask(self, query: dict[str, str]) -> Counter[str]:
        with urllib.request.urlopen(f"{self._url}?{urlencode(query)}", timeout=WAIT_S) as answer:
            return Counter(json.loads(answer.read()))


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project_of(file: str) -> str:
    """The normalised name that a wheel's or source distribution's file belongs to."""
    if file.endswith(".whl"):
        return normalised(file.split("-")[0])
    return normalised(file.removesuffix(".zip").removesuffix(".tar.gz").rpartition("-")[0])


class _Server:
    """Accepts until end(), each connection in a thread of its own, which answers one request."""

    def __init__(self, index: Index, listener: socket.socket) -> None:
        self.index = index
        self._listener = listener
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_ending = False

    def serve(self) -> None:
        threads = []
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                break  # end()
            with self._lock:
                self._connections.add(connection)
                if self._is_ending:
                    connection.shutdown(socket.SHUT_RDWR)
            threads.append(threading.Thread(target=self._answer, args=(connection, address), name="index-request"))
            threads[-1].start()
        for thread in threads:
            thread.join()
        self._listener.close()

    def end(self) -> None:
        """Stop accepting, and break off what is being answered."""
        with self._lock:
            self._is_ending = True
            self._listener.shutdown(socket.SHUT_RDWR)
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait_end(self, connection: socket.socket) -> None:
        """Return when the client has gone or the index ends."""
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass

    def _answer(self, connection: socket.socket, address: object) -> None:
        try:
            with contextlib.suppress(OSError):  # the client went away
                _Handler(connection, address, self)  # type: ignore[arg-type]
        finally:
            with self._lock:
                self._connections.discard(connection)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: _Server  # type: ignore[assignment]
    _page = re.compile(r"/simple/([^/]+)(/?)")
    _file = re.compile(r"/files/([^/]+?)(\.metadata)?")
    _breaking: ClassVar = {Fault.STALL, Fault.CUT, Fault.DAMAGE}

    def do_GET(self) -> None:
        index, path = self.server.index, unquote(urlsplit(self.path).path)
        credentials = _credentials(self.headers.get("Authorization", ""))
        seen = Seen(self.command, path, credentials, self.headers.get("Accept", ""), self.headers.get("User-Agent", ""))
        if path == "/control":
            self._send(200, index.controlled(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)))
            return
        index.note(seen)
        if index.user and credentials != f"{index.user}:{index.password}":
            self._send(401, b"who are you?\n", headers={"WWW-Authenticate": 'Basic realm="index"'})
        elif page := self._page.fullmatch(path):
            self._send_page(page[1], has_slash=bool(page[2]))
        elif file := self._file.fullmatch(path):
            self._send_file(file[1], is_metadata=bool(file[2]))
        elif path == "/simple/":
            names = "".join(f'<a href="{name}/">{name}</a>\n' for name in sorted(index.projects()))
            self._send(200, names.encode(), content_type="text/html")
        else:
            self._send(404, b"no such page\n")

    do_HEAD = do_GET

    def _send_page(self, name: str, *, has_slash: bool) -> None:
        index, project = self.server.index, normalised(name)
        if name != project or not has_slash:
            self._send(301, b"", headers={"Location": f"/simple/{project}/"})
            return
        fault = index.faults.get(project, index.faults.get(ALL))
        if fault is None and project not in index.projects():
            fault = Fault.NOT_FOUND
        as_json = index.has_json and _JSON in self.headers.get("Accept", "")
        self._send(
            200,
            index.page(project, as_json=as_json),
            content_type=_JSON if as_json else _HTML,
            fault=fault,
            counted=(index.pages, project),
        )

    def _send_file(self, file: str, *, is_metadata: bool) -> None:
        index = self.server.index
        fault = index.faults.get(file, index.faults.get(ALL))
        body = None if file not in index.files else index.metadata(file) if is_metadata else index.files[file]
        if is_metadata and fault in self._breaking:
            fault = None  # what is broken is the download
        if body is None:
            self._send(404, b"no such file\n")
        else:
            self._send(200, body, fault=fault, counted=None if is_metadata else (index.downloads, file))

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/octet-stream",
        headers: Mapping[str, str] | None = None,
        fault: Fault | None = None,
        counted: tuple[Counter[str], str] | None = None,
    ) -> None:
        if fault is Fault.SILENCE:
            self.server.wait_end(self.connection)
            return
        if fault is not None and isinstance(fault.value, int):
            status, counted = fault.value, None
            body = f"{http.HTTPStatus(status).phrase} by order of the test\n".encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Cache-Control": self.server.index.cache_control,
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is Fault.DAMAGE:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if fault in (Fault.CUT, Fault.STALL):
            self.wfile.write(body[: len(body) // 2])
            if fault is Fault.STALL:
                self.server.wait_end(self.connection)
            return
        if counted is not None:
            self.server.index.count(*counted)  # before the last byte: the client may look as soon as it has that
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: `seen` is the log."""


def _credentials(header: str) -> str:
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode()
    except ValueError:
        return header
