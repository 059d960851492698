"""`pagurus deploy`: packs the code, uploads it, and shows how the build goes on. Runs in `pagurus`."""

import json
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from gateway.cli import output, progress
from gateway.cli.archive import Packed, pack
from gateway.cli.client import Client
from runtime.errors import ConfigError

SIZE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMG]i?B|B|[KMG])?")
SIZE_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMG", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}


def parse_size(value: str) -> int:
    """Bytes of a number with or without a unit: 268435456, 256MiB, 1GB."""
    match = SIZE_PATTERN.fullmatch(value)
    if not match:
        raise click.BadParameter(f"{value!r} is no size such as 256MiB")
    return int(float(match[1]) * SIZE_UNITS[match[2] or ""])


def parse_variable(value: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, separator, content = value.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE")
    return name, content


SECRET_PATTERN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:([=@])(.*))?", re.DOTALL)


def parse_secret(value: str) -> tuple[str, str]:
    """Name and value of NAME, NAME@FILE or NAME=VALUE. No message shows a value."""
    match = SECRET_PATTERN.fullmatch(value)
    if match is None:
        raise click.BadParameter("this is not of the form NAME, NAME@FILE or NAME=VALUE")
    name, kind, rest = match.groups()
    if kind == "=":
        return name, rest
    if kind is None:
        found = os.environ.get(name)
        if found is None:
            raise click.BadParameter(f"there is no variable {name} in the environment; export it, or use {name}@FILE")
        return name, found
    try:
        with click.open_file(rest, encoding="utf-8") as file:
            return name, file.read().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.BadParameter(f"cannot read the file of {name}: {reason}") from None


def check_secret_name(value: str) -> str:
    """A name that a secret may have."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise click.BadParameter("a secret's name has letters, digits and _ only")
    return value


@click.command()
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path), default=Path())
@click.option("--handler", default="main.main", show_default=True, help="MODULE.FUNCTION to call.")
@click.option("--runtime", help="Such as python3.11; see `pagurus runtimes`.  [default: the node's]")
@click.option(
    "--requirements",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of requirements.  [default: requirements.txt in PATH, if there]",
)
@click.option("--memory", type=parse_size, metavar="SIZE", help="Memory of one sandbox, such as 256MiB.")
@click.option("--cpu", type=click.FloatRange(0, min_open=True), help="Cores of one sandbox, such as 0.5.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that one invocation may take.")
@click.option("--pids", type=click.IntRange(1), help="Processes and threads of one sandbox.")
@click.option("--open-files", type=click.IntRange(1), help="Descriptors of one process of a sandbox.")
@click.option(
    "--env", "environ", type=parse_variable, multiple=True, metavar="NAME=VALUE", help="For the function; repeatable."
)
@click.option(
    "--egress",
    multiple=True,
    metavar="RULE",
    help="What it may reach: none, internet (public addresses), or CIDR[:PORT[-PORT]][/tcp|/udp]; repeatable."
    "  [default: none]",
)
@click.option(
    "--secret",
    "secrets_given",
    type=parse_secret,
    multiple=True,
    metavar="NAME|NAME@FILE|NAME=VALUE",
    help="Kept encrypted, and for the function a variable like --env: NAME of this shell's environment, or from a"
    " FILE (- for stdin) without its last newline. A VALUE given here can be seen by every user of this machine"
    " while the command runs, and stays in the shell's history. Secrets that are not named stay as they are.",
)
@click.option("--unset-secret", "unset", type=check_secret_name, multiple=True, metavar="NAME", help="Remove a secret.")
@click.option("--policy", help="How its sandboxes and zygotes are kept, such as keepalive.  [default: the node's]")
@click.option("--tenant", help="Whose it is: zygotes are shared within a tenant.  [default: default]")
@click.option("--fresh", is_flag=True, help="Each invocation in a sandbox of its own, which ends with it.")
@click.option("--json", "as_json", is_flag=True, help="Print the function as JSON and nothing else.")
@click.pass_obj
def deploy(
    url: str,
    name: str,
    path: Path,
    *,
    handler: str,
    runtime: str | None,
    requirements: Path | None,
    memory: int | None,
    cpu: float | None,
    timeout: float | None,
    pids: int | None,
    open_files: int | None,
    environ: tuple[tuple[str, str], ...],
    egress: tuple[str, ...],
    secrets_given: tuple[tuple[str, str], ...],
    unset: tuple[str, ...],
    policy: str | None,
    tenant: str | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Deploy the function NAME from PATH: a folder with main.py, a .py file, a zip or a tar.

    The requirements are resolved and installed now, so that what cannot be built fails here and not at a call.
    """
    limits = {
        "memory_bytes": memory,
        "cpu_millis": None if cpu is None else max(1, round(cpu * 1000)),
        "timeout_s": timeout,
        "pids": pids,
        "open_files": open_files,
    }
    settings = {
        "runtime": runtime,
        "handler": handler,
        "requirements": _read_requirements(path, requirements),
        "limits": {key: value for key, value in limits.items() if value is not None},
        "environ": dict(environ),
        "egress": list(egress) or None,
        "secrets": {**dict.fromkeys(unset), **dict(secrets_given)} or None,
        "policy": policy,
        "tenant": tenant,
        "reuse": False if fresh else None,
    }
    packed = pack(path)
    if not as_json:
        files = {None: "", 1: "1 file, "}.get(packed.files, f"{packed.files} files, ")
        click.echo(f"{name}: uploading {files}{output.size(len(packed.data))}")
    function = _upload(Client(url), name, {k: v for k, v in settings.items() if v is not None}, packed, as_json=as_json)
    if as_json:
        output.print_json(function)
    else:
        click.echo(f"{name}: deployed, version {output.short(function.get('version'))}")
        click.echo(f"try: pagurus invoke {name}")


def _read_requirements(path: Path, chosen: Path | None) -> str | None:
    beside = path / "requirements.txt"
    file = chosen or (beside if path.is_dir() and beside.is_file() else None)
    if file is None:
        return None
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def _upload(client: Client, name: str, settings: dict[str, Any], packed: Packed, *, as_json: bool) -> dict[str, Any]:
    boundary = f"pagurus-{secrets.token_hex(16)}"
    body = _form(boundary, settings, packed)
    answer = client.request(
        "PUT",
        f"/v1/functions/{quote(name, safe='')}",
        body=body,
        headers={
            "Accept": progress.NDJSON,
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        },
    )
    return progress.follow(answer, "function", as_json=as_json)


def _form(boundary: str, settings: dict[str, Any], packed: Packed) -> bytes:
    """multipart/form-data (RFC 7578) with the parts `settings` and `code`."""
    filename = re.sub(r"[^A-Za-z0-9._-]", "_", packed.filename)
    return b"".join(
        [
            f'--{boundary}\r\nContent-Disposition: form-data; name="settings"\r\n'.encode(),
            b"Content-Type: application/json\r\n\r\n",
            json.dumps(settings).encode(),
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="code"; filename="{filename}"\r\n'.encode(),
            b"Content-Type: application/octet-stream\r\n\r\n",
            packed.data,
            f"\r\n--{boundary}--\r\n".encode(),
        ]
    )
