"""Requirements become exact files of the index: by wheels alone if that can be, else with what boxes build. Builder.

uv resolves. Here, beside the function's code, it never runs code of a package; where metadata has to be built for
that, pagurusd lets it resolve in a build box instead, whose answer is text like any other of the index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rootfs_builder import locks, requirements
from rootfs_builder.channel import Channel
from rootfs_builder.events import Reporter
from rootfs_builder.requirements import Requirement
from rootfs_builder.suites import Suite
from rootfs_builder.uv import NeedsSourceError, Uv
from runtime.model import Locked


@dataclass(frozen=True, slots=True)
class Resolver:
    """For one build. scratch: a folder of its own. takes_sources: whether packages may be built."""

    suite: Suite
    scratch: Path
    uv: Uv
    reporter: Reporter
    channel: Channel
    takes_sources: bool

    def resolve(self, wanted: tuple[Requirement, ...]) -> tuple[Locked, ...]:
        """All that these need. Raises BuildError, with uv's words where they conflict."""
        locked = self._compile(wanted, None)
        self.reporter.progress("resolve", f"resolved {len(locked)} packages", 1.0)
        return locked

    def look_up(self, wanted: tuple[Requirement, ...]) -> tuple[Locked, ...]:
        """The files of a lock of the user's own; nothing is added to it. Raises BuildError."""
        locked = self._compile(wanted, locks.allowed_hashes(wanted))
        self.reporter.progress("resolve", f"{len(locked)} packages are pinned with hashes already", 1.0)
        return locked

    def _compile(
        self, wanted: tuple[Requirement, ...], allowed: Mapping[str, tuple[str, ...]] | None
    ) -> tuple[Locked, ...]:
        source, output = self.scratch / "requirements.txt", self.scratch / "pylock.toml"
        text = requirements.input_text(wanted)
        source.write_text(text)
        try:
            self.uv.compile(source, output, self.reporter, has_dependencies=allowed is not None)
            return locks.from_pylock(output.read_text(), self.suite, allowed)
        except NeedsSourceError:
            if not self.takes_sources:
                raise
        self.reporter.progress("resolve", "not all packages have wheels: building metadata in a sandbox")
        return locks.from_pylock(self.channel.resolved(text), self.suite, allowed, takes_sources=True)
