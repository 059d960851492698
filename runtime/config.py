"""Settings: defaults, TOML file, PAGURUS_ variables, in rising order. A leaf.

pagurusd reads them once and hands the result to the gateway in Welcome.
"""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import ConfigError
from runtime.model import MIB
from runtime.suites import SUITES

DEFAULT_CONFIG_PATH = Path("/etc/pagurus/pagurus.toml")
PREFIX = "PAGURUS_"
SDIST_MEMORY_BYTES_MIN = 64 * MIB  # uv alone takes that


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Each has a row in docs/configuration.md; a test holds that.

    Names of variables are PAGURUS_ and the upper-case name. Sizes are bytes, times seconds.
    """

    state_dir: str = "/var/lib/pagurus"
    run_dir: str = "/run/pagurus"
    listen: str = "127.0.0.1:8080"
    gateway_user: str = "pagurus"
    builder_user: str = "pagurus-build"
    cgroup_parent: str = "pagurus"  # below each hierarchy's root, or below our own when delegated
    uid_base: int = 0x70000000  # first of the ranges of 65536 that zygotes get, one each
    zygotes_max: int = 64
    sandboxes_max: int = 1000
    policy: str = "adaptive"  # which zygotes there are and how long idle sandboxes stay
    policy_options: dict[str, str | int | float | bool] = {}  # of that policy, beyond the settings here
    idle_memory_bytes: int = 2048 * MIB  # of zygotes, standbys and idle sandboxes, as policies count it
    standbys_per_zygote: int = 2
    shells_per_zygote: int = 2  # isolated, empty sandboxes kept ready for a fork
    zygote_memory_bytes: int = 1024 * MIB
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
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"listen is {settings.listen!r}, not HOST:PORT", hint="try listen = '127.0.0.1:8080'")
    return host, int(port)


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
    if "extra_index_urls" in found:
        found["extra_index_urls"] = found["extra_index_urls"].split()
    if "policy_options" in found:
        try:
            found["policy_options"] = msgspec.json.decode(found["policy_options"], type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"PAGURUS_POLICY_OPTIONS is no JSON object: {error}") from error
    return found


def _check(settings: Settings) -> None:
    host, _ = listen_address(settings)
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"listen host {host!r} is not an IP address") from error
    if not is_loopback:
        raise ConfigError(
            f"listen is {settings.listen!r}: other machines could invoke without credentials",
            hint="listen on a loopback address; tokens for others are not supported yet",
        )
    for name in ("state_dir", "run_dir"):
        directory = getattr(settings, name)
        if not os.path.isabs(directory) or ":" in directory or "," in directory:
            raise ConfigError(f"{name} is {directory!r}: it must be absolute, without ':' and ','")
    for name in ("zygotes_max", "sandboxes_max", "function_concurrency", "builds_at_once"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}: it must be at least 1")
    _check_sdists(settings)
    if settings.uid_base < 65536 or settings.uid_base + settings.zygotes_max * 65536 > 2**31:
        raise ConfigError(f"uid_base {settings.uid_base} and zygotes_max leave the range 65536..2147483647")
    if settings.default_runtime and settings.default_runtime not in SUITES:
        raise ConfigError(f"default_runtime is {settings.default_runtime!r}, not one of {', '.join(SUITES)}")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log_level is {settings.log_level!r}, not debug, info, warning or error")


def _check_sdists(settings: Settings) -> None:
    if settings.sdist_timeout_s <= 0:
        raise ConfigError(f"sdist_timeout_s is {settings.sdist_timeout_s}: it must be above 0")
    if settings.sdist_memory_bytes < SDIST_MEMORY_BYTES_MIN:
        raise ConfigError(
            f"sdist_memory_bytes is {settings.sdist_memory_bytes}: it must be at least {SDIST_MEMORY_BYTES_MIN}"
        )
