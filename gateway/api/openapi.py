"""The API's description, OpenAPI 3.1, as data written by hand. A test compares it with the routes."""

from typing import Any

from gateway.api.bodies import RANGES
from gateway.api.problems import TABLE, TYPE_PREFIX
from runtime.model import FUNCTION_NAME_PATTERN, HANDLER_PATTERN, RUNTIME_NAME_PATTERN, StartKind

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_TIME: Json = {"type": "string", "format": "date-time"}
_DIGEST: Json = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNTS: Json = {"type": "object", "additionalProperties": _COUNT}
_PHASES: Json = {"type": "object", "additionalProperties": _NUMBER, "description": "milliseconds by phase"}
_TEXTS: Json = {"type": "array", "items": _TEXT}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(optional: Json | None = None, **required: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _list_of(key: str, name: str) -> Json:
    return _object(**{key: {"type": "array", "items": _ref(name)}})


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
            "content": _body(_ref("Problem"), "application/problem+json"),
        }
        for status, found in by_status.items()
    }


def _operation(name: str, summary: str, responses: Json, **more: Any) -> Json:
    return {"operationId": name, "summary": summary, "responses": {**responses, **_problems("forbidden-host")}, **more}


_NAME = {"name": "name", "in": "path", "required": True, "schema": _ref("FunctionName")}
_ID = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
_FUNCTION_FAILURES = [word for word in TABLE if word.startswith("function-")]
_DEPLOY_FAILURES = [word for word in TABLE if word.startswith("build-")]

_INVOCATION_HEADERS: Json = {
    "X-Pagurus-Invocation-Id": {"schema": _TEXT},
    "X-Pagurus-Start-Kind": {"schema": {"enum": [*StartKind, "none"]}},
    "Server-Timing": {"schema": _TEXT, "description": "queue, the start's phases, imports, run, total"},
}

_LIMITS: Json = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {"type": "number" if name == "timeout_s" else "integer", "minimum": low, "maximum": high}
        for name, (low, high) in RANGES.items()
    },
}

_VERSION: Json = _object(
    version=_DIGEST,
    deployed=_TIME,
    runtime=_ref("RuntimeName"),
    handler=_TEXT,
    limits=_ref("Limits"),
    environ={**_TEXTS, "description": "names only"},
    requirements=_TEXT,
    code=_DIGEST,
    environment=_or_null(_DIGEST),
    distributions=_TEXTS,
    imports=_TEXTS,
)

_FUNCTION: Json = {
    "allOf": [
        _ref("Version"),
        _object(
            {"versions": {"type": "array", "items": _ref("Version")}},
            name=_ref("FunctionName"),
            created=_TIME,
            updated=_TIME,
        ),
    ]
}

_SETTINGS: Json = _object(
    {
        "runtime": _ref("RuntimeName"),
        "handler": {"type": "string", "pattern": f"^{HANDLER_PATTERN.pattern}$", "default": "main.main"},
        "requirements": {"type": ["string", "null"], "description": "lines of a requirements.txt"},
        "limits": _ref("Limits"),
        "environ": {"type": "object", "additionalProperties": _TEXT, "description": "4 KiB in all"},
    }
)

_INVOCATION: Json = _object(
    {"stdout": _TEXT, "stderr": _TEXT},
    id=_TEXT,
    function=_TEXT,
    version=_TEXT,
    status={"enum": ["succeeded", "failed"]},
    start_kind=_or_null({"enum": list(StartKind)}),
    started=_TIME,
    duration_ms=_NUMBER,
    phases_ms=_PHASES,
    error_type=_or_null(_TEXT),
    error=_or_null(_ref("UserError")),
)

_SANDBOX: Json = _object(
    id=_TEXT,
    state={"enum": ["starting", "idle", "frozen", "busy", "dying", "standby"]},
    function=_or_null(_TEXT),
    version=_or_null(_TEXT),
    zygote=_TEXT,
    environment=_or_null(_TEXT),
    memory_bytes=_or_null(_COUNT),
    pid=_or_null(_COUNT),
    uid=_or_null(_COUNT),
)

_ZYGOTE: Json = _object(
    id=_TEXT,
    runtime=_or_null(_TEXT),
    state={"enum": ["starting", "ready", "failed", "ending"]},
    reason=_TEXT,
    tries=_COUNT,
    environments=_TEXTS,
    imports=_TEXTS,
    functions=_TEXTS,
    standbys=_COUNT,
    start_ms=_NUMBER,
    memory_bytes=_COUNT,
    import_ms=_PHASES,
    failed_imports={"type": "object", "additionalProperties": _TEXT},
)

_STATUS: Json = _object(
    node=_TEXT,
    run=_TEXT,
    version=_TEXT,
    runtimes=_TEXTS,
    uptime_s=_NUMBER,
    state={"enum": ["starting", "ready", "draining"]},
    missing=_TEXTS,
    counts=_COUNTS,
    start_kinds=_COUNTS,
    failures=_COUNTS,
    records_lost=_COUNT,
    limits={"type": "object", "additionalProperties": _NUMBER},
    counters=_COUNTS,
    checks={"type": "array", "items": {"type": "object"}},
)

_PROBLEM: Json = _object(
    {"invocation": _TEXT, "error": _ref("UserError")},
    type={"type": "string", "enum": [TYPE_PREFIX + word for word in TABLE]},
    title=_TEXT,
    status={"type": "integer"},
    detail=_TEXT,
)

_EVENT: Json = {
    "oneOf": [
        _object(
            event={"const": "progress"},
            phase=_TEXT,
            message=_TEXT,
            fraction=_or_null({"type": "number", "minimum": 0, "maximum": 1}),
        ),
        _object(event={"const": "done"}, function=_ref("Function")),
        {"allOf": [_object(event={"const": "problem"}), _ref("Problem")]},
    ]
}

_PUT: Json = _operation(
    "deployFunction",
    "Build, check and deploy a function; with Accept: application/x-ndjson a stream of events",
    {
        "200": {
            "description": "updated, or unchanged; or the stream of events",
            "content": _body(_ref("Function")) | _body(_ref("DeployEvent"), "application/x-ndjson"),
        },
        "201": _answer("deployed for the first time", _ref("Function")),
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
                "schema": _object({"settings": _ref("Settings")}, code={"contentMediaType": "application/octet-stream"})
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
            *("queue-full", "start-failed", "draining", *_FUNCTION_FAILURES),
        ),
    },
    parameters=[_NAME],
    requestBody={"content": _body({})},
)

_LIST_PARAMETERS: list[Json] = [
    {"name": "function", "in": "query", "schema": _TEXT},
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}},
]

_PATHS: Json = {
    "/": {"get": _operation("index", "Where to look", {"200": _answer("an index", {"type": "object"})})},
    "/v1/functions": {
        "get": _operation(
            "listFunctions", "All functions", {"200": _answer("functions", _list_of("functions", "Function"))}
        )
    },
    "/v1/functions/{name}": {
        "get": _operation(
            "getFunction",
            "One function with its versions",
            {"200": _answer("the function", _ref("Function")), **_problems("unknown-function", "invalid-name")},
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
    "/v1/functions/{name}/invocations": {"post": _POST},
    "/v1/invocations": {
        "get": _operation(
            "listInvocations",
            "The newest invocations, without their output",
            {"200": _answer("records", _list_of("invocations", "Invocation")), **_problems("invalid-query")},
            parameters=_LIST_PARAMETERS,
        )
    },
    "/v1/invocations/{id}": {
        "get": _operation(
            "getInvocation",
            "One invocation with its output",
            {"200": _answer("the record", _ref("Invocation")), **_problems("unknown-invocation")},
            parameters=[_ID],
        )
    },
    "/v1/sandboxes": {
        "get": _operation(
            "listSandboxes", "All sandboxes", {"200": _answer("sandboxes", _list_of("sandboxes", "Sandbox"))}
        ),
        "delete": _operation(
            "endIdleSandboxes",
            "End all idle sandboxes of a function",
            {
                "200": _answer("how many have ended", _object(ended=_COUNT)),
                **_problems("invalid-query", "invalid-name", "unknown-function"),
            },
            parameters=[{"name": "function", "in": "query", "required": True, "schema": _ref("FunctionName")}],
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
    "/v1/zygotes": {
        "get": _operation("listZygotes", "All zygotes", {"200": _answer("zygotes", _list_of("zygotes", "Zygote"))})
    },
    "/v1/status": {"get": _operation("status", "This node", {"200": _answer("status", _ref("Status"))})},
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
    "components": {
        "schemas": {
            "FunctionName": {"type": "string", "pattern": f"^{FUNCTION_NAME_PATTERN.pattern}$"},
            "RuntimeName": {"type": "string", "pattern": f"^{RUNTIME_NAME_PATTERN.pattern}$"},
            "Limits": _LIMITS,
            "Settings": {**_SETTINGS, "additionalProperties": False},
            "Version": _VERSION,
            "Function": _FUNCTION,
            "DeployEvent": _EVENT,
            "Invocation": _INVOCATION,
            "Sandbox": _SANDBOX,
            "Zygote": _ZYGOTE,
            "Status": _STATUS,
            "UserError": _object(type=_TEXT, message=_TEXT, traceback=_TEXT),
            "Problem": _PROBLEM,
        }
    },
}
