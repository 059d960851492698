"""The 38 functions of the paper's AWS applications, with packages that today's Python can install.

The user names the file of applications: it is data of others, not of this repository. Its pins are of 2021;
data/aws_apps_pins.toml says what stands for those that have no wheel or do not import any more.
"""

import io
import json
import re
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "data" / "aws_apps_pins.toml"
RUNTIMES = ("python3.11", "python3.13")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SOURCE = '''"""{name} of {application}: its packages, and its time."""

import time
{imports}
DURATION_S = {duration!r}


def main(param):
    """Take param["duration_s"] (else the function's own time): asleep, or with param["mode"] "compute" at work."""
    wanted = param if isinstance(param, dict) else {{}}
    duration_s = float(wanted.get("duration_s", DURATION_S))
    if wanted.get("mode", "sleep") == "compute":
        clock, end_s = time.process_time, time.process_time() + duration_s
        rounds = 0
        while clock() < end_s:
            rounds += 1
    else:
        time.sleep(duration_s)
    return {{"function": {name!r}, "duration_s": duration_s}}
'''


@dataclass(frozen=True, slots=True)
class AppFunction:
    """One function. requirements: lines for today's Python; modules: what it imports at its top."""

    application: str
    name: str
    start_offset_s: float
    duration_s: float
    requirements: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def deployed_name(self) -> str:
        """The name as Pagurus takes it."""
        return self.name.replace("_", "-").lower()

    def source(self, note: str = "") -> str:
        """main.py, with main.main(param). note: a comment that makes it another code."""
        imports = "".join(f"import {module}\n" for module in self.modules)
        text = _SOURCE.format(
            name=self.name,
            application=self.application,
            imports=f"\n{imports}" if imports else "",
            duration=self.duration_s,
        )
        return text + (f"\n# {note}\n" if note else "")

    def requirements_text(self) -> str:
        return "".join(f"{line}\n" for line in self.requirements)

    def archive(self, note: str = "") -> bytes:
        """A tar with main.py and, if it needs packages, requirements.txt."""
        files = {"main.py": self.source(note), "requirements.txt": self.requirements_text()}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, text in files.items():
                if text:
                    member = tarfile.TarInfo(path)
                    member.size, member.mode = len(text.encode()), 0o644
                    tar.addfile(member, io.BytesIO(text.encode()))
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Substitute:
    """One entry of the pins' file. before: '' adds to the functions; functions: ('*',) is all with that pin."""

    name: str
    before: str
    to: tuple[str, ...]
    functions: tuple[str, ...]
    why: str

    def fits(self, function: str, packages: Mapping[str, str]) -> bool:
        if self.functions != ("*",) and function not in self.functions:
            return False
        return not self.before or packages.get(self.name) == self.before


def load(applications: Path, runtime: str = "python3.11", pins: Path = PINS) -> tuple[AppFunction, ...]:
    """All functions of an applications.json, in its order. Raises ValueError for a runtime without a mapping."""
    substitutes, modules = read_pins(pins, runtime)
    found = []
    for application, functions in json.loads(applications.read_text()).items():
        for name, function in functions.items():
            packages = function["packages"]
            found.append(
                AppFunction(
                    application=application,
                    name=name,
                    start_offset_s=function["start_offset_s"],
                    duration_s=function["duration_s"],
                    requirements=_requirements(name, packages, substitutes),
                    modules=tuple(module for each in packages for module in modules.get(each, [each])),
                )
            )
    return tuple(found)


def read_pins(pins: Path, runtime: str) -> tuple[tuple[Substitute, ...], dict[str, list[str]]]:
    """The substitutes for a runtime, and the modules of distributions. Raises ValueError for what has another form."""
    document = tomllib.loads(pins.read_text())
    if runtime not in document["pins"]:
        raise ValueError(f"{pins.name} has no pins for {runtime}, but for {', '.join(document['pins'])}")
    for module in (each for modules in document["modules"].values() for each in modules):
        if not _MODULE.fullmatch(module):
            raise ValueError(f"{module!r} is no module")
    return tuple(_substitute(entry) for entry in document["pins"][runtime]), document["modules"]


def _substitute(entry: dict[str, Any]) -> Substitute:
    if set(entry) != {"name", "from", "to", "functions", "why"}:
        raise ValueError(f"the entry for {entry.get('name')} has the fields {sorted(entry)}")
    return Substitute(
        name=entry["name"],
        before=entry["from"],
        to=tuple(entry["to"]),
        functions=tuple(entry["functions"]),
        why=entry["why"],
    )


def _requirements(name: str, packages: Mapping[str, str], substitutes: tuple[Substitute, ...]) -> tuple[str, ...]:
    fitting = [each for each in substitutes if each.fits(name, packages)]
    replaced = {each.name: each.to for each in fitting if each.before}
    lines = [line for each, version in packages.items() for line in replaced.get(each, (f"{each}=={version}",))]
    return (*lines, *(line for each in fitting if not each.before for line in each.to))
