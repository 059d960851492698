import asyncio
import heapq

import pytest

from gateway.replay import sender
from gateway.replay.outcomes import UNSENT, Outcome
from gateway.replay.sender import send_all
from gateway.replay.timetable import Entry


class FakePacer:
    """Time that passes only when nobody has anything to do but sleep."""

    def __init__(self):
        self.time_s = 0.0
        self.sleepers = []
        self.number = 0

    def now_s(self):
        return self.time_s

    async def sleep(self, seconds):
        if seconds <= 0:
            return await asyncio.sleep(0)
        self.number += 1
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self.sleepers, (self.time_s + seconds, self.number, woken))
        return await woken

    async def drive(self, done):
        while not done():
            for _ in range(20):
                await asyncio.sleep(0)
            if self.sleepers:
                self.time_s, _, woken = heapq.heappop(self.sleepers)
                woken.set_result(None)


def replay(entries, service_s, **more):
    """What was sent and when, and the outcomes."""
    pacer = FakePacer()
    sent = []

    async def send(entry):
        sent.append((pacer.now_s(), entry.function))
        await pacer.sleep(service_s)
        return Outcome(entry.at_s, entry.function, 0.0, service_s * 1000, 200)

    async def run():
        task = asyncio.ensure_future(send_all(entries, send, pacer, **more))
        await pacer.drive(task.done)
        return await task

    return sent, asyncio.run(run())


def entries(*times_s):
    return [Entry(at_s, number, f"f{number}", 0.1) for number, at_s in enumerate(times_s)]


def test_each_goes_at_its_time_whatever_the_others_do():
    sent, outcomes = replay(entries(0.0, 1.0, 1.0, 2.75), service_s=100.0)
    assert [at_s for at_s, _ in sent] == pytest.approx([0.0, 1.0, 1.0, 2.75])
    assert [one.function for one in outcomes] == ["f0", "f1", "f2", "f3"]


def test_all_answers_are_waited_for():
    _, outcomes = replay(entries(0.0, 0.1), service_s=30.0)
    assert len(outcomes) == 2


def test_nothing_to_send_ends_at_once():
    assert replay([], service_s=1.0) == ([], [])


def test_beyond_the_limit_a_request_is_not_sent_and_that_is_told(monkeypatch):
    monkeypatch.setattr(sender, "IN_FLIGHT_MAX", 2)
    sent, outcomes = replay(entries(0.0, 0.0, 0.0, 5.0), service_s=1.0)
    assert [name for _, name in sent] == ["f0", "f1", "f3"]
    assert [one.function for one in outcomes if one.failure == UNSENT] == ["f2"]


def test_progress_is_told_while_it_waits():
    told = []
    replay(entries(0.0, 1.2), service_s=0.1, progress=lambda number, now_s: told.append((number, now_s)))
    assert [number for number, _ in told] == [1, 1, 1]
    assert [now_s for _, now_s in told] == pytest.approx([0.5, 1.0, 1.2])
