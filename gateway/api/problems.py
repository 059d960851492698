"""Problem documents (RFC 9457): the one table of error words, their HTTP statuses and titles."""

from typing import Any

import msgspec
from aiohttp import web

from gateway.invocation import Failure, UserError
from runtime.errors import PagurusError

TYPE_PREFIX = "urn:pagurus:problem:"
CONTENT_TYPE = "application/problem+json"

TABLE: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request is not proper HTTP"),
    "malformed-json": (400, "The body is not JSON"),
    "malformed-upload": (400, "The multipart body cannot be read"),
    "invalid-name": (400, "The function's name breaks the rule"),
    "invalid-settings": (400, "A setting of the function is wrong"),
    "invalid-query": (400, "A query parameter is wrong"),
    "unauthorized": (401, "The request needs a token"),
    "forbidden": (403, "The token does not allow this"),
    "forbidden-host": (403, "The Host or Origin is not this node"),
    "unknown-function": (404, "There is no such function"),
    "unknown-invocation": (404, "There is no such invocation"),
    "unknown-sandbox": (404, "There is no such sandbox"),
    "unknown-runtime": (404, "There is no such runtime"),
    "not-found": (404, "There is nothing at this path"),
    "method-not-allowed": (405, "The path does not take this method"),
    "request-timed-out": (408, "The request's body came too slowly"),
    "sandbox-busy": (409, "The sandbox runs an invocation"),
    "runtime-in-use": (409, "The runtime is needed"),
    "request-too-large": (413, "The request's body is too large"),
    "unsupported-media-type": (415, "The body's type is not what this path takes"),
    "expectation-failed": (417, "The Expect header cannot be met"),
    "build-archive": (422, "The code archive cannot be used"),
    "build-requirements": (422, "The requirements cannot be resolved"),
    "build-install": (422, "A package cannot be installed"),
    "build-sdist": (422, "A package cannot be built from source"),
    "build-index": (503, "The package index cannot be used"),
    "build-limit": (422, "The build reached a limit"),
    "build-base": (503, "The runtime's base file system is not usable"),
    "secrets-unreadable": (503, "The secrets cannot be decrypted"),
    "build-internal": (500, "The build failed"),
    "function-exception": (500, "The function raised an exception"),
    "function-exited": (500, "The function ended its process"),
    "function-import-failed": (500, "The function cannot be imported"),
    "function-handler-invalid": (500, "The function's handler cannot be called"),
    "function-crashed": (502, "The function's process crashed"),
    "function-result-invalid": (502, "The function's result is not JSON"),
    "function-result-too-large": (502, "The function's result is too large"),
    "function-output-limit": (502, "The function wrote far too much output"),
    "function-out-of-memory": (507, "The function ran out of memory"),
    "function-timed-out": (504, "The function did not answer in time"),
    "queue-full": (429, "Too many requests wait already"),
    "start-failed": (503, "No sandbox could be started"),
    "memory-short": (503, "The node is short of memory"),
    "too-many-connections": (503, "Too many connections are open"),
    "draining": (503, "The node is stopping"),
    "node-busy": (503, "The node's daemon did not answer in time"),
    "not-ready": (503, "The node is not ready yet"),
    "internal": (500, "The gateway failed"),
}
DEPLOY_STATUS = 422  # of function-... words, when a deploy's check meets them


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(self, failure: Failure, *, status: int | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.status = status or TABLE[failure.word][0]
        self.headers = headers or {}


def problem(word: str, detail: str, *, headers: dict[str, str] | None = None) -> ProblemError:
    """A problem with this word of the table."""
    return ProblemError(Failure(word=word, detail=detail), headers=headers)


def unreadable_secrets(error: PagurusError) -> ProblemError:
    """The key of the secrets is lost or another one."""
    return ProblemError(Failure(word="secrets-unreadable", detail=error.message, hint=error.hint))


def document(failure: Failure, *, status: int | None = None, invocation: str | None = None) -> dict[str, Any]:
    """The problem document of a failure."""
    usual, title = TABLE[failure.word]
    found: dict[str, Any] = {
        "type": TYPE_PREFIX + failure.word,
        "title": title,
        "status": status or usual,
        "detail": _plain(failure.detail),
    }
    if failure.hint:
        found["hint"] = failure.hint
    if invocation is not None:
        found["invocation"] = invocation
    if failure.error is not None:
        found["error"] = user_error(failure.error)
    return found


def _plain(text: str) -> str:
    """Text that can be sent: headers that are not UTF-8 come with half characters, and some details quote them."""
    return text.encode(errors="backslashreplace").decode()


def user_error(error: UserError) -> dict[str, str]:
    """The `error` member: what user code did."""
    return {"type": error.type, "message": error.message, "traceback": error.traceback}


def respond(
    failure: Failure,
    *,
    status: int | None = None,
    invocation: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """The failure as a response."""
    found = document(failure, status=status, invocation=invocation)
    headers = dict(headers or {})
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(failure.retry_after_s)))
    return web.Response(
        status=found["status"], body=msgspec.json.encode(found), headers=headers, content_type=CONTENT_TYPE
    )
