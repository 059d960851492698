"""HTTP to a gateway, with the standard library: http.client starts faster than any other client. Runs in `pagurus`."""

import contextlib
import http.client
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import click

from runtime.errors import ConfigError, PagurusError

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 960.0  # above the longest build and the longest invocation; the gateway answers earlier


class UnreachableError(PagurusError):
    """No gateway answers at the URL."""


class ProblemError(PagurusError):
    """The gateway answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = dict(document)
        title = str(document.get("title") or http.client.responses.get(status, "the request failed"))
        super().__init__(title, hint=str(document.get("hint") or ""))

    @property
    def traceback(self) -> str:
        """The traceback of the function's own failure, or ''."""
        error = self.document.get("error")
        return str(error.get("traceback") or "") if isinstance(error, dict) else ""

    def describe(self) -> str:
        """Title, detail and next step, for people."""
        traceback = self.traceback
        lines = [traceback.rstrip("\n")] if traceback else []
        lines.append(f"pagurus: {self.message} (HTTP {self.status})")
        if self.document.get("detail"):
            lines.append(f"  {self.document['detail']}")
        error = self.document.get("error")
        if isinstance(error, dict) and error.get("type") and not traceback:
            lines.append(f"  {error['type']}: {error.get('message', '')}")
        if self.hint:
            lines.append(f"  next step: {self.hint}")
        identifier = self.document.get("invocation")
        if isinstance(identifier, str):
            lines.append(f"  invocation: {identifier}")
        return "\n".join(lines)


class Answer:
    """One answer: status, headers, body. Close it unless `read` or `lines` came to the end."""

    def __init__(self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._connection = connection

    def read(self) -> bytes:
        try:
            return self._response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the gateway broke off its answer: {error}") from error
        finally:
            self.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """The objects of an application/x-ndjson answer, as they come."""
        try:
            for line in self._response:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the gateway broke off its answer: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    @property
    def content_type(self) -> str:
        return self.headers.get_content_type()

    def problem(self) -> ProblemError:
        """This answer as an error, whether or not it is a proper problem document."""
        body = self.read()
        try:
            document = json.loads(body)
        except ValueError:
            document = {"detail": body[:500].decode(errors="replace")}
        return ProblemError(self.status, document if isinstance(document, dict) else {"detail": str(document)})


class Client:
    """Requests to one gateway; a new connection for each, as the program makes one or two."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UnreachableError(f"{url!r} is no http URL", hint="try --url http://127.0.0.1:8080")
        self.url = url
        self._https = parts.scheme == "https"
        self._host = parts.hostname
        try:
            self._port = parts.port
        except ValueError as error:
            raise UnreachableError(f"{url!r} is no http URL: {error}") from error
        self._prefix = parts.path.rstrip("/")
        token = _token()
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """Send and return the head of the answer, whatever its status. Raises UnreachableError."""
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(timeout_s)
            # A gateway that refuses an upload answers before it has read all, and closes: the answer says why.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, self._prefix + path, body=body, headers={**self._headers, **(headers or {})})
            return Answer(connection.getresponse(), connection)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error

    def get(self, path: str) -> Any:
        """The JSON at `path`. Raises ProblemError, UnreachableError."""
        answer = self.request("GET", path)
        if answer.status != 200:
            raise answer.problem()
        try:
            return json.loads(answer.read())
        except ValueError as error:
            raise UnreachableError(f"what answers at {self.url} is no Pagurus gateway: {error}") from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnreachableError(
            f"no gateway answers at {self.url}: {reason}",
            hint="start it with `sudo pagurusd` or `sudo systemctl start pagurus`, or name another by --url",
        )


def _token() -> str:
    """Of --token-file, else of PAGURUS_TOKEN, else ''. Raises ConfigError; no message shows it."""
    context = click.get_current_context(silent=True)
    file = context.find_root().meta.get("pagurus.token_file") if context else None
    if not file:
        found = os.environ.get("PAGURUS_TOKEN", "")
    else:
        try:
            with open(file, encoding="ascii") as opened:
                found = opened.read(4096)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"cannot read the token file {file}: {reason}") from error
    found = found.strip()
    if not found.isascii() or not found.isprintable():
        raise ConfigError("the token has characters that no token has")
    return found


def items(document: Any, name: str) -> list[dict[str, Any]]:
    """The list of a list answer: {"functions": [...]}, or the bare list."""
    found = document.get(name, []) if isinstance(document, dict) else document
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
