"""Reading what clients send: bounded while it streams, and with a time limit."""

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec
from aiohttp import BodyPartReader, StreamReader, web
from aiohttp.http import HttpProcessingError
from aiohttp.web_exceptions import HTTPException

from gateway.api.problems import ProblemError, problem
from gateway.deploys import DeploySettings
from gateway.invocation import Failure
from gateway.runtimes import Runtimes, UnknownRuntimeError, not_built
from gateway.scheduler.policies import POLICIES
from gateway.secrets import NAME_PATTERN
from runtime import egress
from runtime.model import DEFAULT_TENANT, HANDLER_PATTERN, MIB, OPEN_FILES_MAX, TENANT_PATTERN, Limits, RuntimeName

SETTINGS_BYTES_MAX = 256 * 1024
REQUIREMENTS_BYTES_MAX = 64 * 1024
ENVIRON_BYTES_MAX = 4096

RANGES: dict[str, tuple[float, float]] = {
    "memory_bytes": (16 * MIB, 64 * 1024 * MIB),
    "pids": (4, 4096),
    "cpu_millis": (10, 64_000),
    "open_files": (64, OPEN_FILES_MAX),
    "timeout_s": (0.01, 900),
    "tmp_bytes": (0, 4096 * MIB),
    "request_bytes": (1, 6 * MIB),
    "result_bytes": (1, 6 * MIB),
    "log_bytes": (0, 4 * MIB),
}

_raw = msgspec.json.Decoder(msgspec.Raw)


class _LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    memory_bytes: int | None = None
    pids: int | None = None
    cpu_millis: int | None = None
    open_files: int | None = None
    timeout_s: float | None = None
    tmp_bytes: int | None = None
    request_bytes: int | None = None
    result_bytes: int | None = None
    log_bytes: int | None = None


class _SettingsBody(msgspec.Struct, forbid_unknown_fields=True):
    runtime: str | None = None
    handler: str = "main.main"
    requirements: str | None = None
    limits: _LimitsBody = msgspec.field(default_factory=_LimitsBody)
    environ: dict[str, str] = {}
    policy: str = ""
    egress: str | list[str] = egress.NONE
    tenant: str = DEFAULT_TENANT
    reuse: bool = True
    secrets: dict[str, str | None] = {}


async def read_parameter(request: web.BaseRequest, limit_bytes: int, *, timeout_s: float) -> bytes:
    """The invocation's JSON parameter, `null` for an empty body. Raises ProblemError."""
    content = request.content
    if content.is_eof():  # all of it has come with the headers
        body = content.read_nowait()
        if len(body) > limit_bytes:
            raise _too_large("request_bytes", limit_bytes, f"the body has {len(body)} bytes")
    else:
        length = request.content_length
        if length is not None and length > limit_bytes:
            raise _too_large("request_bytes", limit_bytes, f"the body has {length} bytes")
        await _invite(request)
        body = await _read(content, limit_bytes, "request_bytes", timeout_s)
    return check_json(body) if body else b"null"


def check_json(body: bytes) -> bytes:
    """The body, if it is JSON. Raises ProblemError malformed-json."""
    try:
        _raw.decode(body)
        if not body.isascii():
            body.decode()
    except RecursionError:
        raise problem("malformed-json", "the JSON is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise problem("malformed-json", str(error)) from error
    return body


async def read_deploy(
    request: web.BaseRequest, *, upload_bytes: int, timeout_s: float, store_dir: Path, runtimes: Runtimes
) -> tuple[DeploySettings, int]:
    """Settings and a descriptor of the archive, which is the caller's. Raises ProblemError."""
    if request.content_type != "multipart/form-data":
        raise problem("unsupported-media-type", f"a deploy is multipart/form-data, not {request.content_type}")
    settings: DeploySettings | None = None
    archive = -1
    await _invite(request)
    try:
        async with asyncio.timeout(timeout_s):
            async for part in await request.multipart():
                name = part.name if isinstance(part, BodyPartReader) else None
                if name == "settings" and settings is None and isinstance(part, BodyPartReader):
                    settings = parse_settings(await _read_part(part, SETTINGS_BYTES_MAX, "settings"), runtimes)
                elif name == "code" and archive < 0 and isinstance(part, BodyPartReader):
                    archive = await _spool(part, upload_bytes, store_dir)
                else:
                    raise problem("malformed-upload", f"unexpected part {name!r}: settings and code, once each")
        if settings is None:
            settings = parse_settings(b"{}", runtimes)
        if archive < 0:
            raise problem("malformed-upload", "the part `code` is missing: the archive (zip or tar)")
    except TimeoutError as error:
        _close(archive)
        raise problem("request-timed-out", f"the upload took longer than upload_timeout_s = {timeout_s:g} s") from error
    except (ValueError, AssertionError, web.RequestPayloadError, HTTPException, HttpProcessingError) as error:
        _close(archive)
        raise problem("malformed-upload", f"cannot read the multipart body: {error}") from error
    except BaseException:
        _close(archive)
        raise
    return settings, archive


def parse_settings(body: bytes, runtimes: Runtimes) -> DeploySettings:
    """Checked settings of a deploy. Raises ProblemError invalid-settings that names the setting."""
    try:
        found = msgspec.json.decode(body, type=_SettingsBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problem("invalid-settings", f"settings: {error}") from error
    built = runtimes.names
    runtime = RuntimeName(found.runtime or runtimes.default or "")
    if not built:
        raise problem("not-ready", "pagurusd has no runtime")
    if runtime not in built:
        raise runtime_problem(not_built(runtime[:100], built))
    if not HANDLER_PATTERN.fullmatch(found.handler):
        raise problem("invalid-settings", f"handler is {found.handler!r}, not MODULE.FUNCTION like main.main")
    requirements = found.requirements or ""
    if len(requirements.encode()) > REQUIREMENTS_BYTES_MAX:
        raise problem("invalid-settings", f"requirements is longer than {REQUIREMENTS_BYTES_MAX} bytes")
    return DeploySettings(
        runtime=runtime,
        handler=found.handler,
        requirements=requirements,
        limits=_limits(found.limits),
        environ=_environ(found.environ),
        policy=_policy(found.policy),
        egress=_egress(found.egress),
        tenant=_tenant(found.tenant),
        reuse=found.reuse,
        secrets=_secrets(found.secrets),
    )


def runtime_problem(error: UnknownRuntimeError) -> ProblemError:
    """A deploy's setting names a runtime that is not there."""
    return ProblemError(Failure(word="invalid-settings", detail=error.message, hint=error.hint))


def _tenant(name: str) -> str:
    if not TENANT_PATTERN.fullmatch(name):
        detail = f"tenant is {name[:100]!r}: a letter, then up to 62 lower-case letters, digits and '-'"
        raise problem("invalid-settings", detail)
    return name


def _policy(name: str) -> str:
    if name and name not in POLICIES:
        raise problem("invalid-settings", f"policy is {name[:100]!r}, not one of {', '.join(sorted(POLICIES))}")
    return name


def _egress(wanted: str | list[str]) -> tuple[str, ...]:
    try:
        return egress.check(wanted)
    except ValueError as error:
        raise problem("invalid-settings", f"egress: {error}") from error


def _limits(found: _LimitsBody) -> Limits:
    given = {name: value for name, value in msgspec.structs.asdict(found).items() if value is not None}
    for name, value in given.items():
        low, high = RANGES[name]
        if not low <= value <= high:
            raise problem("invalid-settings", f"limits.{name} is {value:g}: it must be {low:g} to {high:g}")
    return Limits(**given)


def _environ(found: dict[str, str]) -> dict[str, str]:
    for name, value in found.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise problem("invalid-settings", f"environ has {name!r}: a name is not empty, without '=' and NUL")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in found.items())
    if size > ENVIRON_BYTES_MAX:
        raise problem("invalid-settings", f"environ has {size} bytes in all, the limit is {ENVIRON_BYTES_MAX}")
    return found


def _secrets(found: dict[str, str | None]) -> dict[str, str | None]:
    for name, value in found.items():
        if not NAME_PATTERN.fullmatch(name):
            rule = "letters, digits and '_', not first a digit, at most 128"
            raise problem("invalid-settings", f"secrets has {name[:100]!r}: a name is {rule}")
        if value is not None and ("\0" in value or not _is_utf8(value)):
            raise problem("invalid-settings", f"the secret {name} has a NUL byte or is no text")
    return found


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can hold
        return False
    return True


async def _invite(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`: the client sends its body only now. Raises ProblemError."""
    expect = request.headers.get("Expect")
    if expect is None:
        return
    if expect.lower() != "100-continue":
        raise problem("expectation-failed", f"Expect is {expect[:100]!r}, only 100-continue is known")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer proper has not begun


async def _read(content: StreamReader, limit_bytes: int, limit_name: str, timeout_s: float) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while size <= limit_bytes:
                chunk = await content.readany()
                if not chunk and content.at_eof():
                    return b"".join(chunks)
                chunks.append(chunk)
                size += len(chunk)
    except TimeoutError as error:
        raise problem("request-timed-out", f"the body took longer than body_timeout_s = {timeout_s:g} s") from error
    except web.RequestPayloadError as error:
        raise problem("bad-request", f"the body cannot be read: {error}") from error
    raise _too_large(limit_name, limit_bytes, "the body is longer")


async def _read_part(part: BodyPartReader, limit_bytes: int, name: str) -> bytes:
    body = bytearray()
    while chunk := await part.read_chunk():
        body += chunk
        if len(body) > limit_bytes:
            raise _too_large(name, limit_bytes, f"the part `{name}` is longer")
    return bytes(body)


async def _spool(part: BodyPartReader, limit_bytes: int, store_dir: Path) -> int:
    """Write a part to a file without a name; its descriptor, at offset 0."""
    with tempfile.TemporaryFile(dir=store_dir, buffering=0) as file:
        size = 0
        while chunk := await part.read_chunk(65536):
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large("upload_bytes", limit_bytes, "the archive is longer")
            file.write(chunk)
        file.seek(0)
        return os.dup(file.fileno())


def _too_large(name: str, limit_bytes: int, found: str) -> Exception:
    return problem("request-too-large", f"{found}; {name} is {limit_bytes} bytes", headers={"Connection": "close"})


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
