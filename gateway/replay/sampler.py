"""Asks the node once a second what it holds, while the replay runs."""

from gateway.replay.samples import SAMPLE_EVERY_S, Sample, SandboxList, ZygoteList
from gateway.replay.sender import Pacer
from gateway.replay.web import Web


class Sampler:
    """`samples` grows while `run` runs. missed: times that the node did not answer."""

    def __init__(self, web: Web, pacer: Pacer) -> None:
        self.samples: list[Sample] = []
        self.missed_count = 0
        self._web = web
        self._pacer = pacer

    async def run(self) -> None:
        """Sample until cancelled."""
        number = 0
        while True:
            await self.sample()
            number = max(number + 1, int(self._pacer.now_s() / SAMPLE_EVERY_S))
            await self._pacer.sleep(max(0.0, number * SAMPLE_EVERY_S - self._pacer.now_s()))

    async def sample(self) -> None:
        """Take one sample now."""
        at_s = self._pacer.now_s()
        sandboxes = await self._web.look("/v1/sandboxes", SandboxList)
        zygotes = await self._web.look("/v1/zygotes", ZygoteList)
        if sandboxes is None or zygotes is None:
            self.missed_count += 1
        else:
            self.samples.append(Sample(at_s, sandboxes.sandboxes, zygotes.zygotes))
