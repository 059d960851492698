"""Which functions there are and what each is: those of an applications.json, or drawn from the profile's. Pure but
for reading the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from gateway.simulate.profile import FunctionProfile, Profile
from runtime.errors import ConfigError
from runtime.model import FUNCTION_NAME_PATTERN, FunctionName


class _Entry(msgspec.Struct, frozen=True):
    start_offset_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """One function of an application: invoked so long after the application was called, busy for so long."""

    function: FunctionName
    start_offset_s: float
    duration_s: float


Applications = dict[str, tuple[Step, ...]]


def read(path: Path) -> Applications:
    """An applications.json: application -> function -> start_offset_s, duration_s; packages are not read.

    Raises ConfigError.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, _Entry]])
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is no applications.json: {error}") from error
    return {
        application: tuple(
            Step(deployed_name(name), entry.start_offset_s, entry.duration_s) for name, entry in functions.items()
        )
        for application, functions in document.items()
    }


def deployed_name(name: str) -> FunctionName:
    """The name as Pagurus takes it. Raises ConfigError."""
    found = name.replace("_", "-").lower()
    if not FUNCTION_NAME_PATTERN.fullmatch(found):
        raise ConfigError(f"{name!r} is no name of a function", hint="lower-case letters, digits and -, at most 63")
    return FunctionName(found)


def profiles_of(names: Iterable[FunctionName], profile: Profile) -> dict[FunctionName, FunctionProfile]:
    """What each function costs. Raises ConfigError that names those that were not measured."""
    wanted = sorted(set(names))
    missing = [name for name in wanted if name not in profile.functions]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ConfigError(
            f"the profile does not have {shown}",
            hint="run scripts/bench/profile --applications FILE --out PROFILE, then give it with --profile",
        )
    return {name: profile.functions[name] for name in wanted}


def draw_profiles(names: Iterable[FunctionName], profile: Profile, seed: int) -> dict[FunctionName, FunctionProfile]:
    """Give each function the packages of one that was measured, at random by the seed.

    For traces that do not say what their functions import.
    """
    random = Random(f"{seed}/packages")
    known = [profile.functions[name] for name in sorted(profile.functions)]
    if not known:
        raise ConfigError("the profile has no functions to draw from", hint="scripts/bench/profile measures some")
    return {name: random.choice(known) for name in sorted(set(names))}
