"""Stacks of layers as functions see them, and that a function is the same however it was started."""

import itertools
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runtime import protocol
from runtime.frames import FrameKind
from runtime.model import Environment, ZygoteId
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# What a function can find out about its packages, by import, by metadata, by looking at the disk.
LOOK = """
import importlib, importlib.metadata, os, sys

def main(names):
    inherited = sorted(name for name in sys.modules if getattr(sys.modules[name], "__file__", None) is not None
                       and sys.modules[name].__file__.startswith("/opt/env"))
    found = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            found[name] = type(error).__name__
        else:
            found[name] = [getattr(module, "VALUE", None), getattr(module, "SEEN", None)]
    return {
        "modules": found,
        "distributions": sorted(f"{d.name}=={d.version}" for d in importlib.metadata.distributions(path=["/opt/env"])),
        "files": sorted(os.path.join(folder, file)[9:] for folder, _, files in os.walk("/opt/env") for file in files
                        if not file.endswith(".pyc")),
        "entry_points": sorted(e.name for e in importlib.metadata.entry_points(group="things")),
        "inherited": inherited,
    }
"""


def package(name: str, value: str, optional: str = "") -> dict[str, str]:
    """A package that remembers whether it found an optional one when it was imported."""
    source = f"VALUE = {value!r}\n"
    if optional:
        source += (
            f"try:\n    import {optional} as other\n    SEEN = other.VALUE\nexcept ImportError:\n    SEEN = 'nothing'\n"
        )
    return {f"{name}/__init__.py": source, f"{name}/part.py": f"from {name} import VALUE as V\nVALUE = V + '.part'\n"}


async def look(bed: Bed, environment: Environment, names: list[str], zygote: str | None) -> Any:
    """What the function finds: started cold from the base zygote, or by fork of `zygote`."""
    assignment = bed.assignment(bed.write_code(LOOK), environment=environment.id)
    sandbox = await bed.start(zygote or "base", assignment)
    answer = await bed.call(sandbox, names)
    assert answer.kind is FrameKind.RESULT, answer.value
    await bed.end(sandbox)
    return answer.value


@in_node()
async def test_a_stack_of_sixty_layers_is_one_environment(bed: Bed):
    names = [f"pkg{number}" for number in range(60)]
    environment = bed.write_environment({(name, "1.0"): package(name, name) for name in names})
    await bed.zygote()
    await bed.zygote("all", [environment])
    for zygote in (None, "all"):
        seen = await look(bed, environment, names, zygote)
        assert seen["modules"] == {name: [name, None] for name in names}
        assert len(seen["distributions"]) == 60
    mounted = bed.parts.layers.environment_lowers([environment.id])
    assert len(mounted) == 61


@in_node()
async def test_four_hundred_layers_mount_and_five_hundred_are_refused_in_words(bed: Bed):
    many = bed.write_environment({(f"p{n}", "1"): {f"p{n}.py": f"VALUE = {n}\n"} for n in range(400)})
    more = bed.write_environment({(f"q{n}", "1"): {f"q{n}.py": ""} for n in range(101)})
    await bed.zygote()
    seen = await look(bed, many, ["p0", "p399"], None)
    assert seen["modules"] == {"p0": [0, None], "p399": [399, None]}
    failed = await bed.try_zygote("both", [many, more], standbys=0)
    assert isinstance(failed, protocol.ZygoteFailed)
    assert "501 packages together, the limit is 499" in failed.message


@in_node()
async def test_namespace_packages_metadata_entry_points_and_resources_work(bed: Bed):
    resources = (
        "import importlib.resources\n\ndef main(p):\n"
        "    return importlib.resources.files('cloud.store').joinpath('words.txt').read_text()\n"
    )
    store = {"cloud/store/__init__.py": "VALUE = 'store'\n", "cloud/store/words.txt": "hello"}
    store["cloud_store-1.0.dist-info/entry_points.txt"] = "[things]\none = cloud.store:VALUE\n"
    both = {("cloud-store", "1.0"): store, ("cloud-queue", "2.0"): {"cloud/queue.py": "VALUE = 'queue'\n"}}
    environment = bed.write_environment(both)
    only = bed.write_environment({("cloud-queue", "2.0"): both["cloud-queue", "2.0"]})
    await bed.zygote()
    await bed.zygote("union", [environment, only], imports=["cloud.store", "cloud.queue"])
    for zygote in (None, "union"):
        seen = await look(bed, environment, ["cloud.store", "cloud.queue"], zygote)
        assert seen["modules"] == {"cloud.store": ["store", None], "cloud.queue": ["queue", None]}
        assert seen["distributions"] == ["cloud-queue==2.0", "cloud-store==1.0"]
        assert seen["entry_points"] == ["one"]
        seen = await look(bed, only, ["cloud.queue", "cloud.store", "cloud"], zygote)
        assert seen["modules"]["cloud.queue"] == ["queue", None]
        assert seen["modules"]["cloud.store"] == "ModuleNotFoundError"
        assert seen["entry_points"] == []
    sandbox = await bed.start("base", bed.assignment(bed.write_code(resources), environment=environment.id))
    assert (await bed.call(sandbox)).value == "hello"


@in_node()
async def test_declared_packages_are_not_executed_again_in_a_helper(bed: Bed):
    counted = {"counted.py": "import os, random\nVALUE = (os.getpid(), random.random())\n"}
    environment = bed.write_environment({("counted", "1"): counted})
    await bed.zygote()
    await bed.zygote("warm", [environment])
    first = await look(bed, environment, ["counted"], "warm")
    second = await look(bed, environment, ["counted"], "warm")
    assert first["modules"] == second["modules"], "the module is the one that the zygote has executed"
    assert first["inherited"] == ["counted"]


@in_node()
async def test_the_file_of_the_last_installed_is_seen_as_with_pip(bed: Bed):
    below = {"shared/__init__.py": "VALUE = 'below'\n", "shared/only_below.py": "VALUE = 1\n"}
    above = {"shared/__init__.py": "VALUE = 'above'\n"}
    environment = bed.write_environment({("below", "1"): below, ("above", "1"): above}, requires={"above": ["below"]})
    alone = bed.write_environment({("below", "1"): below})
    await bed.zygote()
    await bed.zygote("union", [alone, environment])
    for zygote in (None, "union"):
        seen = await look(bed, environment, ["shared", "shared.only_below"], zygote)
        assert seen["modules"] == {"shared": ["above", None], "shared.only_below": [1, None]}
        seen = await look(bed, alone, ["shared", "shared.only_below"], zygote)
        assert seen["modules"] == {"shared": ["below", None], "shared.only_below": [1, None]}


@in_node()
async def test_a_package_that_finds_an_optional_one_is_imported_anew_for_who_does_not_have_that(bed: Bed):
    reader, fast = package("reader", "r", optional="fast"), package("fast", "f")
    with_fast = bed.write_environment({("reader", "1"): reader, ("fast", "1"): fast})
    without = bed.write_environment({("reader", "1"): reader})
    await bed.zygote()
    ready = await bed.zygote("union", [with_fast, without])
    assert set(ready.environments) == {with_fast.id, without.id}
    for zygote in (None, "union"):
        assert (await look(bed, with_fast, ["reader"], zygote))["modules"] == {"reader": ["r", "f"]}
        assert (await look(bed, without, ["reader"], zygote))["modules"] == {"reader": ["r", "nothing"]}


@in_node()
async def test_two_versions_of_one_distribution_are_no_union(bed: Bed):
    old = bed.write_environment({("dist", "1"): {"dist.py": "VALUE = 1\n"}})
    new = bed.write_environment({("dist", "2"): {"dist.py": "VALUE = 2\n"}})
    failed = await bed.try_zygote("union", [old, new])
    assert isinstance(failed, protocol.ZygoteFailed) and "dist would be there as" in failed.message


@in_node()
async def test_pages_of_a_layer_are_in_memory_once(bed: Bed):
    """Two environments share a layer with a large file; two sandboxes that map it have half of it each."""
    size = 8 << 20
    touch = (
        "import mmap, os\n\ndef main(p):\n"
        "    global held\n"
        "    with open('/opt/env/big.bin', 'rb') as f:\n"
        "        held = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
        "    return sum(held[i] for i in range(0, len(held), 4096))\n"
    )
    big = {"big.bin": "x" * size, "big.py": ""}
    one = bed.write_environment({("big", "1"): big, ("one", "1"): {"one.py": ""}})
    two = bed.write_environment({("big", "1"): big, ("two", "1"): {"two.py": ""}})
    await bed.zygote()
    code = bed.write_code(touch)
    pids = []
    for environment in (one, two):
        sandbox = await bed.start("base", bed.assignment(code, environment=environment.id))
        assert (await bed.call(sandbox)).value == ord("x") * size // 4096
        pids.append(bed.pid(sandbox))
    for pid in pids:
        rss, pss = _mapped(pid, "big.bin")
        assert rss == size and pss == size // 2, (rss, pss)


def _mapped(pid: int, name: str) -> tuple[int, int]:
    """Resident and proportional bytes of a mapped file in a process."""
    rss = pss = 0
    is_it = False
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            key, *rest = line.split()
            if "-" in key and not key.endswith(":"):
                is_it = line.rstrip().endswith(name)
            elif is_it and key == "Rss:":
                rss += int(rest[0]) * 1024
            elif is_it and key == "Pss:":
                pss += int(rest[0]) * 1024
    return rss, pss


# --- the property: cold and helped starts cannot be told apart

NAMES = ["ant", "bee", "cat", "dog"]


@st.composite
def _locks(draw: st.DrawFn) -> tuple[dict[str, dict[str, str]], list[list[str]]]:
    """Four distributions with random optional imports, overlaps and a shared namespace, and some sets of them."""
    contents = {}
    for name in NAMES:
        optional = draw(st.sampled_from(["", *(other for other in NAMES if other != name)]))
        files = package(name, name, optional)
        if draw(st.booleans()):
            files[f"ns/{name}.py"] = f"VALUE = 'ns.{name}'\n"
        if draw(st.booleans()):  # a file that several have, with the same or another content
            files["common/__init__.py"] = f"VALUE = {draw(st.sampled_from(['same', name]))!r}\n"
        if draw(st.booleans()):  # a module that is put into sys.modules by hand
            files[f"{name}/__init__.py"] += (
                f"import sys, types\nsys.modules['made_by_{name}'] = m = types.ModuleType('made')\nm.VALUE = 1\n"
            )
        contents[name] = files
    sets = draw(st.lists(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), min_size=2, max_size=3))
    return contents, sets


_zygotes = itertools.count()


@in_node(shells_per_zygote=1)
async def test_a_function_finds_the_same_however_it_was_started(bed: Bed):
    await bed.zygote(standbys=0)
    modules = [*NAMES, *(f"{name}.part" for name in NAMES), "common", "ns", *(f"ns.{name}" for name in NAMES)]
    modules += [f"made_by_{name}" for name in NAMES]
    cases: list[Any] = []

    # The examples are drawn first: hypothesis and the event loop do not mix. Failures are shown with their example.
    @settings(
        max_examples=12, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(_locks())
    def collect(case: Any) -> None:
        cases.append(case)

    collect()
    assert len(cases) >= 10
    for contents, sets in cases:
        known = {
            tuple(chosen): bed.write_environment({(name, "1.0"): contents[name] for name in chosen}) for chosen in sets
        }
        zygote = f"union-{next(_zygotes)}"
        distinct = list({environment.id: environment for environment in known.values()}.values())
        ready = await bed.zygote(zygote, distinct, standbys=0)
        for chosen, environment in known.items():
            # Its own first: a helper has them imported already, so that what they make and bring is there.
            names = [*chosen, *random.sample(modules, len(modules))]
            cold = await look(bed, environment, names, None)
            helped = await look(bed, environment, names, zygote if environment.id in ready.environments else None)
            del cold["inherited"], helped["inherited"]
            assert cold == helped, (contents, chosen, sets, names)
        bed.node.handle(protocol.DropZygote(zygote=ZygoteId(zygote)), [])
        await bed.until(lambda zygote=zygote: bed.told(protocol.ZygoteDied, zygote=zygote))
