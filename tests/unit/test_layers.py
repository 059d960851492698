"""Who may import whom (DESIGN section 2), read from the sources."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {
    "runtime.model",
    "runtime.errors",
    "runtime.egress",
    "runtime.file_names",
    "runtime.protocol",
    "runtime.protocol_store",
    "runtime.sealed",
    "runtime.frames",
    "runtime.syscalls",
    "runtime.clock",
    "runtime.config",
    "runtime.disks",
    "runtime.doctor",
    "runtime.kernel_probes",
    "runtime.machine_probes",
    "runtime.logs",
    "runtime.packets",
    "runtime.reaper",
    "runtime.suites",
    "runtime.trust",
    "runtime.tokens",
}
INSIDE = {
    "runtime.frames",
    "runtime.fork.zygote",
    "runtime.fork.worker",
    "runtime.fork.purge",
    "runtime.fork.warm",
    "runtime.fork.measure",
    "runtime.fork.ownership",
    "runtime.fork.manners",
}
HOMES = {
    "aiohttp": ("gateway", "rootfs_builder.downloads", "rootfs_builder.index_proxy"),
    "cryptography": ("gateway.secret_key",),
    "installer": ("rootfs_builder",),
    "packaging": ("rootfs_builder", "runtime.file_names"),
    "uvloop": ("gateway", "runtime.daemon"),
    "pyroute2": ("runtime.netns", "runtime.doctor"),
    "prctl": ("runtime.sandbox",),
    "psutil": ("runtime", "gateway"),
    "click": ("gateway.cli", "runtime.daemon"),
    "rich": ("gateway.cli",),
}
OURS = ("runtime", "gateway", "rootfs_builder")


def modules() -> list[str]:
    names = []
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imports_of(module: str) -> set[str]:
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module.split(".") if path.is_dir() else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{stem}.{alias.name}" for alias in node.names} | {stem}
    return found


def ours(module: str) -> set[str]:
    known = set(modules())
    return {name for name in imports_of(module) if name in known and name != "runtime"}


def test_the_table_names_modules_that_exist():
    assert set(modules()) >= INSIDE


@pytest.mark.parametrize("module", modules())
def test_arrows(module: str):
    for target in ours(module):
        top, to = module.split(".")[0], target.split(".")[0]
        if module in LEAVES:
            assert target in LEAVES, f"leaf {module} imports {target}"
        if top in ("gateway", "rootfs_builder") and to != top:
            assert target in LEAVES, f"{module} imports {target}, which is no leaf of runtime"
        if top == "runtime":
            assert to == "runtime", f"{module} imports {target}"
        rooms = [".".join(name.split(".")[:2]) for name in (module, target)]
        parts = {"runtime.sandbox", "runtime.fork", "runtime.netns"}
        if set(rooms) <= parts:
            assert rooms[0] == rooms[1], f"{module} imports {target}"


@pytest.mark.parametrize("module", modules())
def test_third_parties_stay_at_home(module: str):
    for name in imports_of(module):
        homes = HOMES.get(name.split(".")[0])
        if homes:
            assert module.startswith(homes), f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(INSIDE))
def test_code_inside_sandboxes_uses_the_standard_library_only(module: str):
    for name in imports_of(module):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or name in INSIDE or name.startswith("runtime"), f"{module}: {name}"
        if top == "runtime" and name in modules():
            assert name in INSIDE | {"runtime", "runtime.fork"}, f"{module} imports {name}"


@pytest.mark.parametrize("module", modules())
def test_modules_stay_small(module: str):
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert len(source.read_text().splitlines()) <= 400
