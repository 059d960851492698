"""The schemas of the API's description: what its bodies look like."""

from typing import Any

from gateway.api.bodies import RANGES
from gateway.api.problems import TABLE, TYPE_PREFIX
from gateway.scheduler.policies import POLICIES
from gateway.secrets import NAME_PATTERN, SECRETS_BYTES_MAX, SECRETS_MAX
from runtime import egress
from runtime.model import (
    DEFAULT_TENANT,
    FUNCTION_NAME_PATTERN,
    HANDLER_PATTERN,
    RUNTIME_NAME_PATTERN,
    TENANT_PATTERN,
    StartKind,
)

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_TIME: Json = {"type": "string", "format": "date-time"}
_DIGEST: Json = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNTS: Json = {"type": "object", "additionalProperties": COUNT}
_PHASES: Json = {"type": "object", "additionalProperties": _NUMBER, "description": "milliseconds by phase"}
_TEXTS: Json = {"type": "array", "items": TEXT}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "null"}]}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Json | None = None, **required: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def list_of(key: str, name: str) -> Json:
    return record(**{key: {"type": "array", "items": ref(name)}})


_LIMITS: Json = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        name: {"type": "number" if name == "timeout_s" else "integer", "minimum": low, "maximum": high}
        for name, (low, high) in RANGES.items()
    },
}

_EGRESS: Json = {
    "description": "none, internet (public addresses), or rules CIDR[:PORT[-PORT]][/tcp|/udp] and internet among them",
    "oneOf": [
        {"enum": [egress.NONE, egress.INTERNET]},
        {
            "type": "array",
            "items": {"type": "string", "maxLength": egress.RULE_LENGTH_MAX},
            "maxItems": egress.RULES_MAX,
        },
    ],
}

_VERSION: Json = record(
    version=_DIGEST,
    deployed=_TIME,
    runtime=ref("RuntimeName"),
    handler=TEXT,
    limits=ref("Limits"),
    environ={**_TEXTS, "description": "names only"},
    secrets={**_TEXTS, "description": "names only"},
    requirements=TEXT,
    policy=TEXT,
    egress=_EGRESS,
    tenant=TEXT,
    reuse={"type": "boolean", "description": "whether a sandbox serves more than one invocation"},
    code=_DIGEST,
    environment=_or_null(_DIGEST),
    distributions=_TEXTS,
    imports=_TEXTS,
    import_costs={
        "type": "object",
        "additionalProperties": record(ms=_NUMBER, memory_bytes=COUNT),
        "description": "of the deploy's import check, by distribution; '' is the function's own code",
    },
    conflicts={
        "type": "array",
        "items": record(path=TEXT, used=TEXT, hidden=TEXT),
        "description": "files that two distributions have differently",
    },
)

_FUNCTION: Json = {
    "allOf": [
        ref("Version"),
        record(
            {
                "versions": {"type": "array", "items": ref("Version")},
                "lock": {"type": "string", "description": "of the current version; of getFunction only"},
                "deploy_ms": {**_PHASES, "description": "where a deploy's time went; of deployFunction only"},
            },
            name=ref("FunctionName"),
            created=_TIME,
            updated=_TIME,
        ),
    ]
}

_SETTINGS: Json = record(
    {
        "runtime": ref("RuntimeName"),
        "handler": {"type": "string", "pattern": f"^{HANDLER_PATTERN.pattern}$", "default": "main.main"},
        "requirements": {"type": ["string", "null"], "description": "lines of a requirements.txt"},
        "limits": ref("Limits"),
        "environ": {"type": "object", "additionalProperties": TEXT, "description": "4 KiB in all"},
        "egress": {**_EGRESS, "default": egress.NONE},
        "secrets": {
            "type": "object",
            "propertyNames": {"pattern": f"^{NAME_PATTERN.pattern}$"},
            "additionalProperties": _or_null(TEXT),
            "description": f"changes: null removes, others are kept; {SECRETS_MAX} of {SECRETS_BYTES_MAX} bytes in all",
        },
        "policy": {"enum": ["", *sorted(POLICIES)], "default": "", "description": "'' takes the node's"},
        "tenant": {"type": "string", "pattern": f"^{TENANT_PATTERN.pattern}$", "default": DEFAULT_TENANT},
        "reuse": {
            "type": "boolean",
            "default": True,
            "description": "false: a sandbox serves one invocation and ends",
        },
    }
)

_INVOCATION: Json = record(
    {"stdout": TEXT, "stderr": TEXT},
    id=TEXT,
    function=TEXT,
    version=TEXT,
    status={"enum": ["succeeded", "failed"]},
    start_kind=_or_null({"enum": list(StartKind)}),
    start_note={"type": "string", "description": "of a cold start: why no zygote may hold its packages"},
    started=_TIME,
    duration_ms=_NUMBER,
    phases_ms=_PHASES,
    error_type=_or_null(TEXT),
    error=_or_null(ref("UserError")),
)

_RUNTIME: Json = record(
    name=ref("RuntimeName"),
    suite={"type": "string", "description": "the release of Debian that it comes from"},
    state={"enum": ["ready", "building", "not built"]},
    default={"type": "boolean", "description": "of deploys that name none"},
    python_version=_or_null(TEXT),
    digest=_or_null(_DIGEST),
    disk_bytes=_or_null(COUNT),
    packages=_or_null(COUNT),
    functions={**_TEXTS, "description": "whose current version runs on it"},
    zygote=_or_null({"enum": ["starting", "ready", "failed", "ending"]}),
    zygote_reason=TEXT,
)

_SANDBOX: Json = record(
    id=TEXT,
    state={"enum": ["starting", "idle", "frozen", "busy", "dying", "standby"]},
    function=_or_null(TEXT),
    version=_or_null(TEXT),
    kind={**_or_null({"enum": list(StartKind)}), "description": "how it came to be; of a standby null"},
    zygote=TEXT,
    environment=_or_null(TEXT),
    memory_bytes=_or_null(COUNT),
    pid=_or_null(COUNT),
    uid=_or_null(COUNT),
)

_ZYGOTE: Json = record(
    id=TEXT,
    runtime=_or_null(TEXT),
    state={"enum": ["starting", "ready", "failed", "ending"]},
    tenants={**_TEXTS, "description": "who has chosen all that it holds; others it helps if they declare all of it"},
    reason=TEXT,
    tries=COUNT,
    environments=_TEXTS,
    imports=_TEXTS,
    functions={**_TEXTS, "description": "that it can help: it mounts their environment"},
    meant_for={**_TEXTS, "description": "functions that the policy made it for"},
    owner={**_or_null(TEXT), "description": "the function whose idle sandbox it has replaced"},
    why={"type": "string", "description": "the inputs of the decision to make it, for people"},
    standbys=COUNT,
    start_ms=_NUMBER,
    memory_bytes=COUNT,
    import_ms=_PHASES,
    failed_imports={"type": "object", "additionalProperties": TEXT},
)

_FUNCTION_STATUS: Json = record(
    name=ref("FunctionName"),
    version=_DIGEST,
    runtime=ref("RuntimeName"),
    environment=_or_null(_DIGEST),
    tenant=TEXT,
    obstacle={"type": "string", "description": "why no zygote may hold its packages for now: one was refused"},
    pool={**_COUNTS, "description": "idle, frozen, busy, starting, dying, waiting, standbys"},
    next_start=_or_null(record(kind={"enum": list(StartKind)}, zygote=TEXT, standby=_or_null(TEXT))),
    zygotes={
        "type": "array",
        "items": record(
            id=TEXT,
            state={"enum": ["starting", "ready", "failed", "ending"]},
            kind={"enum": list(StartKind)},
            is_preferred={"type": "boolean"},
            is_meant={"type": "boolean"},
            saves_ms={"type": "number", "description": "of a cold start: imports that it has made already"},
            owner=_or_null(TEXT),
            why=TEXT,
            standbys=COUNT,
        ),
        "description": "that can start it, the preferred one first",
    },
    last_starts={
        "type": "object",
        "additionalProperties": record(
            invocation=TEXT,
            started=_TIME,
            status={"enum": ["succeeded", "failed"]},
            duration_ms=_NUMBER,
            phases_ms=_PHASES,
        ),
        "description": "the newest by start kind, of the last 500 invocations",
    },
    policy=TEXT,
    decisions={
        "type": "object",
        "description": "rates, service, thresholds, why the last decisions were taken, as the policy puts it",
    },
)

_STATUS: Json = record(
    node=TEXT,
    run=TEXT,
    version=TEXT,
    runtimes=_TEXTS,
    policy=TEXT,
    uptime_s=_NUMBER,
    state={"enum": ["starting", "ready", "draining"]},
    missing=_TEXTS,
    counts=_COUNTS,
    memory=record(
        level={"enum": ["normal", "low", "critical"]},
        available_bytes=_or_null(COUNT),
        total_bytes=_or_null(COUNT),
        low_percent=_NUMBER,
        critical_percent=_NUMBER,
        given_up={**_COUNTS, "description": "sandboxes, standbys, zygotes: for lack of memory"},
    ),
    start_kinds=_COUNTS,
    failures=_COUNTS,
    records_lost=COUNT,
    limits={"type": "object", "additionalProperties": _NUMBER},
    counters={
        **_COUNTS,
        "description": "of pagurusd, since its start. assigned: starts that took a standby; forked: starts that found"
        " none; shells_missed: forks whose namespaces were not there yet and had to be made first",
    },
    checks={"type": "array", "items": {"type": "object"}},
)

_PROBLEM: Json = record(
    {"hint": TEXT, "invocation": TEXT, "error": ref("UserError")},
    type={"type": "string", "enum": [TYPE_PREFIX + word for word in TABLE]},
    title=TEXT,
    status={"type": "integer"},
    detail=TEXT,
)


def _event(**done: Json) -> Json:
    """One line of a stream; `done`: what the last one of a success carries."""
    return {
        "oneOf": [
            record(
                event={"const": "progress"},
                phase=TEXT,
                message=TEXT,
                fraction=_or_null({"type": "number", "minimum": 0, "maximum": 1}),
            ),
            record(event={"const": "done"}, **done),
            {"allOf": [record(event={"const": "problem"}), ref("Problem")]},
        ]
    }


SCHEMAS: Json = {
    "FunctionName": {"type": "string", "pattern": f"^{FUNCTION_NAME_PATTERN.pattern}$"},
    "RuntimeName": {"type": "string", "pattern": f"^{RUNTIME_NAME_PATTERN.pattern}$"},
    "Limits": _LIMITS,
    "Settings": {**_SETTINGS, "additionalProperties": False},
    "Version": _VERSION,
    "Function": _FUNCTION,
    "DeployEvent": _event(function=ref("Function")),
    "Runtime": _RUNTIME,
    "RuntimeEvent": _event(runtime=ref("Runtime")),
    "Invocation": _INVOCATION,
    "Sandbox": _SANDBOX,
    "Zygote": _ZYGOTE,
    "Zygotes": record(
        zygotes={"type": "array", "items": ref("Zygote")},
        kept_out={
            "type": "array",
            "items": record(environment=_DIGEST, functions=_TEXTS, reason=TEXT, refusals=COUNT, ends_in_s=_NUMBER),
            "description": "environments that no zygote may hold for now, as one with them was refused",
        },
    ),
    "FunctionStatus": _FUNCTION_STATUS,
    "Status": _STATUS,
    "GarbageItem": record(
        kind={"enum": ["code", "environment", "layer", "rootfs"]},
        id=TEXT,
        label=TEXT,
        size_bytes=COUNT,
        used=_or_null(_TIME),
    ),
    "Garbage": record(
        items={"type": "array", "items": ref("GarbageItem")},
        count=COUNT,
        freed_bytes=COUNT,
        layers_bytes=COUNT,
        store_bytes=COUNT,
    ),
    "UserError": record(type=TEXT, message=TEXT, traceback=TEXT),
    "Problem": _PROBLEM,
}
