"""The API's description, OpenAPI 3.1, as data written by hand. A test compares it with the routes."""

from typing import Any

from gateway.api.problems import TABLE, TYPE_PREFIX
from gateway.api.schemas import COUNT, SCHEMAS, TEXT, Json, list_of, record, ref
from runtime.model import StartKind


def _body(schema: Json, kind: str = "application/json") -> Json:
    return {kind: {"schema": schema}}


def _answer(description: str, schema: Json | None = None) -> Json:
    return {"description": description, **({"content": _body(schema)} if schema else {})}


def _problems(*words: str) -> Json:
    """The responses for these problem words, by status."""
    by_status: dict[str, list[str]] = {}
    for word in words:
        by_status.setdefault(str(TABLE[word][0]), []).append(word)
    return {
        status: {
            "description": "; ".join(f"{TABLE[word][1]} ({TYPE_PREFIX}{word})" for word in found),
            "content": _body(ref("Problem"), "application/problem+json"),
        }
        for status, found in by_status.items()
    }


def _operation(name: str, summary: str, responses: Json, **more: Any) -> Json:
    return {"operationId": name, "summary": summary, "responses": {**responses, **_problems("forbidden-host")}, **more}


_NAME = {"name": "name", "in": "path", "required": True, "schema": ref("FunctionName")}
_RUNTIME_NAME = {"name": "name", "in": "path", "required": True, "schema": ref("RuntimeName")}
_ID = {"name": "id", "in": "path", "required": True, "schema": TEXT}
_FUNCTION_FAILURES = [word for word in TABLE if word.startswith("function-")]
_DEPLOY_FAILURES = [word for word in TABLE if word.startswith("build-")]

_INVOCATION_HEADERS: Json = {
    "X-Pagurus-Invocation-Id": {"schema": TEXT},
    "X-Pagurus-Start-Kind": {"schema": {"enum": [*StartKind, "none"]}},
    "Server-Timing": {"schema": TEXT, "description": "queue, the start's phases, imports, run, total"},
}

_PUT: Json = _operation(
    "deployFunction",
    "Build, check and deploy a function; with Accept: application/x-ndjson a stream of events",
    {
        "200": {
            "description": "updated, or unchanged; or the stream of events",
            "content": _body(ref("Function")) | _body(ref("DeployEvent"), "application/x-ndjson"),
        },
        "201": _answer("deployed for the first time", ref("Function")),
        **_problems(
            *("invalid-name", "invalid-settings", "malformed-upload", "request-too-large", "request-timed-out"),
            *("unsupported-media-type", "start-failed", "draining", *_DEPLOY_FAILURES),
        ),
    },
    parameters=[_NAME],
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": record({"settings": ref("Settings")}, code={"contentMediaType": "application/octet-stream"})
            }
        },
    },
)

_POST: Json = _operation(
    "invokeFunction",
    "Run the function with the body as its parameter; an empty body is null",
    {
        "200": {**_answer("the function's result", {}), "headers": _INVOCATION_HEADERS},
        **_problems(
            *("unknown-function", "invalid-name", "malformed-json", "request-too-large", "request-timed-out"),
            *("queue-full", "start-failed", "draining", "secrets-unreadable", *_FUNCTION_FAILURES),
        ),
    },
    parameters=[_NAME],
    requestBody={"content": _body({})},
)

_LIST_PARAMETERS: list[Json] = [
    {"name": "function", "in": "query", "schema": TEXT},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}},
]

_PATHS: Json = {
    "/": {"get": _operation("index", "Where to look", {"200": _answer("an index", {"type": "object"})})},
    "/v1/functions": {
        "get": _operation(
            "listFunctions", "All functions", {"200": _answer("functions", list_of("functions", "Function"))}
        )
    },
    "/v1/functions/{name}": {
        "get": _operation(
            "getFunction",
            "One function with its versions",
            {"200": _answer("the function", ref("Function")), **_problems("unknown-function", "invalid-name")},
            parameters=[_NAME],
        ),
        "put": _PUT,
        "delete": _operation(
            "deleteFunction",
            "Delete a function and end its sandboxes",
            {"204": _answer("deleted"), **_problems("unknown-function", "invalid-name")},
            parameters=[_NAME],
        ),
    },
    "/v1/functions/{name}/status": {
        "get": _operation(
            "functionStatus",
            "A function's pool, who can help it, its last starts, and why the policy decided what it did",
            {"200": _answer("the live view", ref("FunctionStatus")), **_problems("unknown-function", "invalid-name")},
            parameters=[_NAME],
        )
    },
    "/v1/functions/{name}/invocations": {"post": _POST},
    "/v1/invocations": {
        "get": _operation(
            "listInvocations",
            "The newest invocations, without their output",
            {"200": _answer("records", list_of("invocations", "Invocation")), **_problems("invalid-query")},
            parameters=_LIST_PARAMETERS,
        )
    },
    "/v1/invocations/{id}": {
        "get": _operation(
            "getInvocation",
            "One invocation with its output",
            {"200": _answer("the record", ref("Invocation")), **_problems("unknown-invocation")},
            parameters=[_ID],
        )
    },
    "/v1/sandboxes": {
        "get": _operation(
            "listSandboxes", "All sandboxes", {"200": _answer("sandboxes", list_of("sandboxes", "Sandbox"))}
        ),
        "delete": _operation(
            "endIdleSandboxes",
            "End all idle sandboxes of a function",
            {
                "200": _answer("how many have ended", record(ended=COUNT)),
                **_problems("invalid-query", "invalid-name", "unknown-function"),
            },
            parameters=[{"name": "function", "in": "query", "required": True, "schema": ref("FunctionName")}],
        ),
    },
    "/v1/sandboxes/{id}": {
        "delete": _operation(
            "endSandbox",
            "End an idle sandbox or a standby",
            {"204": _answer("ended"), **_problems("unknown-sandbox", "sandbox-busy")},
            parameters=[_ID],
        )
    },
    "/v1/runtimes": {
        "get": _operation(
            "listRuntimes",
            "All runtimes, also those that are not built",
            {"200": _answer("runtimes", list_of("runtimes", "Runtime"))},
        )
    },
    "/v1/runtimes/{name}": {
        "post": _operation(
            "addRuntime",
            "Build a runtime, unless it is there; with Accept: application/x-ndjson a stream of events",
            {
                "200": {
                    "description": "it was there; or the stream of events",
                    "content": _body(ref("Runtime")) | _body(ref("RuntimeEvent"), "application/x-ndjson"),
                },
                "201": _answer("built", ref("Runtime")),
                **_problems(
                    "unknown-runtime", "start-failed", "draining", "build-base", "build-limit", "build-internal"
                ),
            },
            parameters=[_RUNTIME_NAME],
        ),
        "delete": _operation(
            "removeRuntime",
            "Remove a runtime that no function uses",
            {"204": _answer("removed"), **_problems("unknown-runtime", "runtime-in-use", "build-base")},
            parameters=[_RUNTIME_NAME],
        ),
    },
    "/v1/gc": {
        "post": _operation(
            "collectGarbage",
            "Remove, or list, what no version of a function needs",
            {"200": _answer("what went, or would", ref("Garbage")), **_problems("invalid-query", "node-busy")},
            parameters=[{"name": "dry_run", "in": "query", "schema": {"type": "boolean", "default": False}}],
        )
    },
    "/v1/rotate-key": {
        "post": _operation(
            "rotateKey",
            "Encrypt all secrets at rest with a new key",
            {
                "200": _answer("done", record(key=TEXT, secrets=COUNT)),
                **_problems("secrets-unreadable"),
            },
        )
    },
    "/v1/zygotes": {"get": _operation("listZygotes", "All zygotes", {"200": _answer("zygotes", ref("Zygotes"))})},
    "/v1/status": {"get": _operation("status", "This node", {"200": _answer("status", ref("Status"))})},
    "/healthz": {
        "get": _operation("healthz", "Whether the gateway lives", {"200": _answer("it does", {"type": "object"})})
    },
    "/readyz": {
        "get": _operation(
            "readyz",
            "Whether the node can serve",
            {"200": _answer("it can", {"type": "object"}), **_problems("not-ready", "draining")},
        )
    },
    "/openapi.json": {
        "get": _operation("openapi", "This document", {"200": _answer("OpenAPI 3.1", {"type": "object"})})
    },
}

DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Pagurus",
        "version": "1",
        "description": "Deploy and invoke Python functions. Errors are problem documents (RFC 9457).",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": _PATHS,
    "components": {"schemas": SCHEMAS},
}
