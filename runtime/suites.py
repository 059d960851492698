"""The runtimes that can be built, and the Debian release that each comes from. A leaf."""

import platform
from dataclasses import dataclass

from runtime.model import RuntimeName


@dataclass(frozen=True, slots=True)
class Suite:
    """One runtime. `name`: Debian's code name. `glibc`: the newest manylinux tag that its libc can load.

    packages: those that only this release has and that its standard library needs to be whole.
    """

    runtime: RuntimeName
    name: str
    glibc: str
    packages: tuple[str, ...] = ()

    @property
    def python(self) -> str:
        """The version with minor: '3.11'."""
        return self.runtime.removeprefix("python")

    def uv_platform(self) -> str:
        """The platform that wheels are chosen for, in uv's words: the runtime's libc, not the host's."""
        return f"{platform.machine()}-manylinux_{self.glibc}"


SUITES = {
    suite.runtime: suite
    for suite in (
        Suite(RuntimeName("python3.11"), "bookworm", "2_36", packages=("python3-distutils",)),
        Suite(RuntimeName("python3.13"), "trixie", "2_40"),  # has 2.41; uv knows tags up to 2_40
    )
}
