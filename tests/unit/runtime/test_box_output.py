"""Output of a box: bounded, shown without control codes, passed on no faster than anybody reads."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from runtime import box_output
from runtime.box_output import BoxOutput


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def with_output(scenario: Callable[[BoxOutput, Clock, list[str], list[str]], Awaitable[None]]) -> None:
    async def live() -> None:
        clock, lines, floods = Clock(), [], []
        output, writing = await BoxOutput.open(clock, lines.append, lambda: floods.append("flood"))
        os.close(writing)
        await output.closed
        await scenario(output, clock, lines, floods)
        output.close()

    asyncio.run(live())


def test_lines_are_passed_on_whole_and_harmless():
    @with_output
    async def scenario(output: BoxOutput, clock: Clock, lines: list[str], floods: list[str]) -> None:
        output.data_received(b"first \x1b[31mred\x1b[0m li")
        output.data_received(b"ne\x07\nrest")
        assert lines == ["first red line"]
        assert output.tail == "first red line\nrest"
        assert not floods


def test_lines_that_come_too_fast_are_kept_but_not_passed_on():
    @with_output
    async def scenario(output: BoxOutput, clock: Clock, lines: list[str], floods: list[str]) -> None:
        output.data_received(b"1\n2\n3\n")
        clock.now_s += box_output.LINE_EVERY_S
        output.data_received(b"4\n5\n")
        assert lines == ["1", "4"]
        assert output.tail == "1\n2\n3\n4\n5"


def test_a_flood_is_told_once_and_only_its_end_is_kept():
    @with_output
    async def scenario(output: BoxOutput, clock: Clock, lines: list[str], floods: list[str]) -> None:
        for _ in range(34):
            output.data_received(b"x" * (1 << 20))
        assert floods == ["flood"]
        assert output.is_flood
        assert len(output.tail) == box_output.TAIL_BYTES_MAX
        output.data_received(b"\n")
        assert len(lines[0]) == box_output.LINE_CHARS_MAX


def test_what_turns_text_around_is_not_shown():
    assert box_output.shown("a\u202eb\x9bc\rd\x1b]0;title\x07e\tf") == "abcde\tf"
