"""Settings: defaults, TOML file, PAGURUS_ variables, in rising order. A leaf.

pagurusd reads them once and hands the result to the gateway in Welcome.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runtime import egress
from runtime.errors import ConfigError
from runtime.model import MIB
from runtime.suites import SUITES

DEFAULT_CONFIG_PATH = Path("/etc/pagurus/pagurus.toml")
PREFIX = "PAGURUS_"
NORMALISED_NAME_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # PEP 503
SDIST_MEMORY_BYTES_MIN = 64 * MIB  # uv alone takes that


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Each has a row in docs/configuration.md; a test holds that.

    Names of variables are PAGURUS_ and the upper-case name. Sizes are bytes, times seconds.
    """

    state_dir: str = "/var/lib/pagurus"
    run_dir: str = "/run/pagurus"
    listen: str = "127.0.0.1:8080"
    auth: str = "auto"  # tokens: needed off loopback and where there are any; or "always"
    hosts: tuple[str, ...] = ()  # names that requests may come under, beside addresses
    head_timeout_s: float = 20.0  # until a request's head is whole
    body_timeout_s: float = 30.0  # from then until an invocation's parameter is
    upload_timeout_s: float = 600.0  # the same of a deploy
    write_timeout_s: float = 30.0  # a client that reads none of its answer for so long is cut off
    keep_alive_s: float = 75.0  # of a connection without a request
    header_bytes: int = 8190  # of a request's first line, and of each header
    headers_max: int = 100
    connections_max: int = 4096
    connections_per_address: int = 512  # of one that is not loopback
    gateway_user: str = "pagurus"
    builder_user: str = "pagurus-build"
    cgroup_parent: str = "pagurus"  # below each hierarchy's root, or below our own when delegated
    uid_base: int = 0x70000000  # first of the ranges of 65536 that zygotes get, one each
    zygotes_max: int = 64
    sandboxes_max: int = 1000
    policy: str = "adaptive"  # which zygotes there are and how long idle sandboxes stay
    policy_options: dict[str, str | int | float | bool] = {}  # of that policy, beyond the settings here
    idle_memory_bytes: int = 2048 * MIB  # of zygotes, standbys and idle sandboxes, as policies count it
    memory_low_percent: float = 8.0  # of the node's memory: with less available, what is idle is given up
    memory_critical_percent: float = 4.0  # with less, there are no new sandboxes either
    standbys_per_zygote: int = 2
    shells_per_zygote: int = 2  # isolated, empty sandboxes kept ready for a fork
    zygote_memory_bytes: int = 1024 * MIB
    disk_bytes_per_s: int = 256 * MIB  # of one sandbox, of what is not in memory yet; 0 sets no limit
    idle_timeout_s: float = 600.0  # keep-alive of an idle sandbox
    freeze_after_s: float = 1.0  # an idle sandbox is frozen after this
    function_concurrency: int = 16  # sandboxes of one function at once
    queue_per_function: int = 200
    drain_s: float = 10.0
    upload_bytes: int = 50 * MIB
    unpacked_bytes: int = 250 * MIB
    archive_entries: int = 20_000
    build_timeout_s: float = 600.0
    builds_at_once: int = 2
    environment_bytes: int = 4096 * MIB  # of all packages of a function, unpacked
    store_bytes: int = 20480 * MIB  # layers beyond this that nothing needs go, least recently used first
    sdists: bool = True  # build packages that have no wheel, in build boxes
    sdist_timeout_s: float = 300.0  # of one sdist, or of a resolving that has to build metadata
    sdist_memory_bytes: int = 2048 * MIB  # of one build box, its files included
    index_url: str = ""  # package index; '' takes the index that pip is configured with
    extra_index_urls: tuple[str, ...] = ()  # asked before index_url
    url_requirements: bool = False  # whether a requirement may be a wheel's https address with its hash
    egress_subnet: str = "10.201.0.0/16"  # of sandboxes whose function has egress; '' lets none have it
    egress_resolvers: tuple[str, ...] = ()  # name servers for them; none: the host's own, else public ones
    egress_connections_max: int = 256  # of one sandbox to the outside at once
    trusted_packages: tuple[str, ...] = ()  # of the index: zygotes of nothing else help every tenant
    records_kept: int = 100_000
    default_runtime: str = ""  # of a deploy that names none; '' takes the host's version of Python, if it is built
    log_level: str = "info"


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Settings:
    """Merge defaults, the TOML file (DEFAULT_CONFIG_PATH if it exists and `path` is None), variables, overrides.

    Raises ConfigError that names the setting, its source and what was expected.
    """
    values: dict[str, Any] = {}
    values.update(_read_file(path))
    values.update(_read_variables(environ))
    values.update({key: value for key, value in (overrides or {}).items() if value is not None})
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad setting: {error}", hint="see docs/configuration.md") from error
    _check(settings)
    return settings


def listen_address(settings: Settings) -> tuple[str, int]:
    """Host and port of `listen`. Raises ConfigError."""
    host, _, port = settings.listen.rpartition(":")
    host = host.strip("[]")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ConfigError(f"listen is {settings.listen!r}, not HOST:PORT", hint="try listen = '127.0.0.1:8080'")
    return host, int(port)


def is_loopback(settings: Settings) -> bool:
    """Whether only processes of this machine reach `listen`. Raises ConfigError."""
    host, _ = listen_address(settings)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"listen host {host!r} is not an IP address") from error


def public(settings: Settings) -> dict[str, Any]:
    """The settings as builtins, without the addresses of indexes, which may hold passwords."""
    values = dict(msgspec.to_builtins(settings))
    return values | {"index_url": "", "extra_index_urls": []}


def _read_file(path: Path | None) -> dict[str, Any]:
    chosen = path or DEFAULT_CONFIG_PATH
    if path is None and not chosen.exists():
        return {}
    try:
        return tomllib.loads(chosen.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"no settings file {chosen}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {chosen}: {error}") from error


def _read_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {PREFIX + name.upper(): name for name in Settings.__struct_fields__}
    found: dict[str, Any] = {known[key]: value for key, value in environ.items() if key in known}
    for name in ("extra_index_urls", "hosts", "trusted_packages", "egress_resolvers"):
        if name in found:
            found[name] = found[name].split()
    if "policy_options" in found:
        try:
            found["policy_options"] = msgspec.json.decode(found["policy_options"], type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"PAGURUS_POLICY_OPTIONS is no JSON object: {error}") from error
    return found


def _check(settings: Settings) -> None:
    is_loopback(settings)
    if settings.auth not in ("auto", "always"):
        raise ConfigError(f"auth is {settings.auth!r}, not auto or always")
    for name in ("state_dir", "run_dir"):
        directory = getattr(settings, name)
        if not os.path.isabs(directory) or ":" in directory or "," in directory:
            raise ConfigError(f"{name} is {directory!r}: it must be absolute, without ':' and ','")
    for name in ("zygotes_max", "sandboxes_max", "function_concurrency", "builds_at_once", "headers_max"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}: it must be at least 1")
    _check_sdists(settings)
    _check_egress(settings)
    _check_memory(settings)
    if settings.disk_bytes_per_s and settings.disk_bytes_per_s < MIB:
        raise ConfigError(f"disk_bytes_per_s is {settings.disk_bytes_per_s}: it must be 0 or at least {MIB}")
    _check_trusted(settings)
    _check_connections(settings)
    if settings.uid_base < 65536 or settings.uid_base + settings.zygotes_max * 65536 > 2**31:
        raise ConfigError(f"uid_base {settings.uid_base} and zygotes_max leave the range 65536..2147483647")
    if settings.default_runtime and settings.default_runtime not in SUITES:
        raise ConfigError(f"default_runtime is {settings.default_runtime!r}, not one of {', '.join(SUITES)}")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log_level is {settings.log_level!r}, not debug, info, warning or error")


def _check_memory(settings: Settings) -> None:
    low, critical = settings.memory_low_percent, settings.memory_critical_percent
    if not 0 <= critical <= low <= 100:
        raise ConfigError(
            f"memory_low_percent is {low:g} and memory_critical_percent {critical:g}:"
            " they must be from 0 to 100, the critical one not above the low one"
        )


def _check_trusted(settings: Settings) -> None:
    for name in settings.trusted_packages:
        if not NORMALISED_NAME_PATTERN.fullmatch(name):
            hint = "the normalised name of one distribution, such as scikit-learn"
            raise ConfigError(f"trusted_packages has {name!r}", hint=hint)


def _check_connections(settings: Settings) -> None:
    for name in ("head_timeout_s", "body_timeout_s", "upload_timeout_s", "write_timeout_s", "keep_alive_s"):
        if not 0 < getattr(settings, name) <= 86400:
            raise ConfigError(f"{name} is {getattr(settings, name):g}: it must be above 0 and at most a day")
    for name in ("connections_max", "connections_per_address"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}: it must be at least 1")
    if not 256 <= settings.header_bytes <= 65536:
        raise ConfigError(f"header_bytes is {settings.header_bytes}: it must be 256 to 65536")


def _check_sdists(settings: Settings) -> None:
    if settings.sdist_timeout_s <= 0:
        raise ConfigError(f"sdist_timeout_s is {settings.sdist_timeout_s}: it must be above 0")
    if settings.sdist_memory_bytes < SDIST_MEMORY_BYTES_MIN:
        raise ConfigError(
            f"sdist_memory_bytes is {settings.sdist_memory_bytes}: it must be at least {SDIST_MEMORY_BYTES_MIN}"
        )


def _check_egress(settings: Settings) -> None:
    try:
        if settings.egress_subnet:
            egress.parse_subnet(settings.egress_subnet)
    except ValueError as error:
        raise ConfigError(
            f"egress_subnet: {error}", hint="an IPv4 network from /8 to /28 that the host does not use"
        ) from error
    try:
        egress.parse_resolvers(settings.egress_resolvers)
    except ValueError as error:
        raise ConfigError(f"egress_resolvers: {error}", hint="IPv4 addresses of name servers") from error
    if not 1 <= settings.egress_connections_max <= 65535:
        raise ConfigError(f"egress_connections_max is {settings.egress_connections_max}: it must be 1 to 65535")
