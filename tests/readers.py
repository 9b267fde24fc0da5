"""A reader of an interactive case, without a server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL
from tlp_runtime import Synthesizer, Volume
from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.interactive.parts import Update
from tlp_runtime.interactive.queue import EngineQueue
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.synthesis.request import Prompt, Request


class Reader:
    """Waits for a case as a server does."""

    def __init__(self, images: Mapping[str, Volume], queue: EngineQueue, spec: ModelSpec) -> None:
        self.news = threading.Event()
        self.case = InteractiveCase(
            prepare(Request(images=images), spec), spec, queue, notify=self.news.set
        )
        self.since = 0

    def settle(self) -> set[int]:
        """Wait until nothing is left; the k that changed."""
        changed: set[int] = set()
        while True:
            self.news.clear()
            update = self.next()
            for _, numbers in update.groups:
                changed.update(numbers)
            if update.more:
                continue
            if not update.running:
                return changed
            assert self.news.wait(20)

    def next(self) -> Update:
        update = self.case.update(self.since)
        self.since = update.serial
        return update


@contextmanager
def opened(
    images: Mapping[str, Volume], engine: FakeEngine | None = None, spec: ModelSpec = SMALL
) -> Iterator[Reader]:
    with EngineQueue(engine or FakeEngine(spec), batch=4) as queue:
        yield Reader(images, queue, spec)


def offline(images: Mapping[str, Volume], prompt: Volume | None, spec: ModelSpec) -> np.ndarray:
    with Synthesizer(FakeEngine(spec)) as synthesizer:
        return synthesizer.run(Request(images=images, prompt=Prompt(prompt))).volume.data
