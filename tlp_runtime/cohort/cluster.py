"""The same jobs on a Ray cluster: actors hold engines, tasks are cases.

Ray starts the actors, restarts them when they or their machine die, and reports that; the cases
they had are then given to others. Every machine needs the same version of this
package and sees the model, the inputs and the output folder under the same paths.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlp_runtime.cohort.backend import Backend
from tlp_runtime.cohort.job import Job, Outcome
from tlp_runtime.cohort.pipeline import AHEAD, Pipeline
from tlp_runtime.engines.base import Opening
from tlp_runtime.engines.choice import AUTO, EngineChoice
from tlp_runtime.engines.devices import CPU_ENGINES, choose_all, open_all
from tlp_runtime.engines.registry import find_engine
from tlp_runtime.errors import (
    DependencyMissing,
    DeviceUnavailable,
    EngineError,
    Install,
    RunTask,
    SetOption,
    TLPError,
    first_line,
)
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.warnings import WORKER_LOST, Warn

logger = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Actors that may die with a case before the case is taken to be the cause."""
_MORE_CALLS = (AHEAD + 1) * CPU_ENGINES + 4
"""Calls that an actor takes at once, in addition to one per worker."""
_POLL_S = 0.2
_STOP_S = 60.0
_CONNECT_S = 10.0


class Worker:
    """A pipeline in an actor of its own.

    Parameters
    ----------
    model
        The bundle's folder.
    workers
        Threads that read, and as many that write; None takes one per core of its share.
    cpus
        Its share of the machine's cores.
    calls
        Calls that may be under way at once.
    """

    def __init__(
        self, model: Path, choice: EngineChoice, workers: int | None, cpus: int, calls: int
    ) -> None:
        self._calls = calls - 2  # one to ask after it, one to stop it
        bundle = Bundle.open(model)
        selected = choose_all(choice.engine, choice.device, bundle)
        engines = open_all(selected, bundle, Opening(choice), cpus=cpus)
        self._pipeline = Pipeline(engines, batch=choice.batch, workers=workers or cpus)

    def about(self) -> dict[str, Any]:
        """Host, version, engine and model, to be compared with the other actors."""
        engine = self._pipeline.engines[0]
        return {
            "host": socket.gethostname(),
            "version": version("tlp-mri"),
            "engine": engine.name,
            "library": engine.library,
            "model": engine.bundle.onnx_sha256,
            "room": min(self._pipeline.room, self._calls),
        }

    def run(self, job: Job) -> Outcome:
        """Run one job; several calls may be under way."""
        outcome = self._pipeline.submit(job).result()
        return replace(outcome, worker=f"{socket.gethostname()} {outcome.worker}")

    def stop(self) -> None:
        """Finish what is being written and drop the rest."""
        self._pipeline.stop()


@dataclass(eq=False)
class _Actor:
    """An actor and its work."""

    handle: Any
    room: int = 0
    busy: int = 0
    coming: Any = None
    """Its answer to ``about``, while it starts."""


@dataclass(eq=False)
class _Entry:
    job: Job
    outcome: Future[Outcome] = field(default_factory=Future)
    deaths: int = 0


class Cluster(Backend):
    """Gives jobs to the actors of a Ray cluster.

    Parameters
    ----------
    address
        ``auto`` finds the cluster that this machine belongs to.
    model, choice, workers
        As of every :class:`Worker`.
    warn
        As of :class:`~tlp_runtime.cohort.backend.Backend`.

    Attributes
    ----------
    engine
        The name that all actors' engines have.

    Raises
    ------
    DependencyMissing
        Ray is not installed.
    DeviceUnavailable
        There is no such cluster, or it has no machine to run on.
    DeviceError, ModelError
        An actor cannot open its engine.
    """

    def __init__(
        self,
        address: str,
        model: Path,
        choice: EngineChoice,
        *,
        workers: int | None = None,
        warn: Warn | None = None,
    ) -> None:
        super().__init__(warn)
        self._ray = _connect(address)
        self._model, self._choice, self._workers = model, choice, workers
        self._queue: deque[_Entry] = deque()
        self._flying: dict[Any, tuple[_Actor, _Entry]] = {}
        self._changed = threading.Condition()
        self._closing = self._stopping = self._over = False
        self._broken: TLPError | None = None
        self._actors: list[_Actor] = []
        try:
            self._start()
        except BaseException:
            self._leave()
            raise
        self._thread = threading.Thread(target=self._dispatch, name="ray", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """How many actors there are."""
        return len(self._actors)

    def submit(self, job: Job) -> Future[Outcome]:
        """Start on a job."""
        entry = _Entry(job)
        with self._changed:
            if self._broken is not None:
                entry.outcome.set_exception(self._broken)
            else:
                self._queue.append(entry)
                self._changed.notify_all()
        return entry.outcome

    def close(self) -> None:
        """Wait for what was submitted, and end the actors."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._leave()

    def stop(self) -> None:
        """Drop what was not run yet, wait for what is being written, and end the actors."""
        if not self._ray.is_initialized():
            return
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify_all()
        ends = [actor.handle.stop.remote() for actor in self._actors if actor.room]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=_STOP_S)
        with self._changed:
            self._over = True  # what was written by now is still taken
            self._changed.notify_all()
        self._thread.join()
        self._leave()

    def _start(self) -> None:
        """Start one actor per GPU, or per machine without GPUs; all must open the same engine."""
        shares = actors_of(self._ray.nodes(), self._choice)
        if not shares:
            raise DeviceUnavailable("the Ray cluster has no machine to run on.")
        remote = self._ray.remote(Worker)
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        for node, cpus, gpus in shares:
            calls = (self._workers or cpus) + _MORE_CALLS
            handle = remote.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=-1,
                max_concurrency=calls,
                scheduling_strategy=affinity(node, soft=True),
            ).remote(self._model, self._choice, self._workers, cpus, calls)
            self._actors.append(_Actor(handle, coming=handle.about.remote()))
        about = [self._answer(actor) for actor in self._actors]
        for what in ("version", "engine", "model"):
            found = {said[what]: said["host"] for said in about}
            if len(found) > 1:
                listed = ", ".join(f"{value} on {host}" for value, host in found.items())
                raise DeviceUnavailable(
                    f"the machines of the Ray cluster differ in {what} ({listed}), and so would "
                    "outputs",
                    fix=("Install the same everywhere.", SetOption("engine", "one of them")),
                )
        self.engine = str(about[0]["engine"])
        self.room = sum(actor.room for actor in self._actors)
        hosts = sorted({said["host"] for said in about})
        logger.info("%d actors on %s", len(about), ", ".join(hosts))

    def _answer(self, actor: _Actor) -> dict[str, Any]:
        try:
            said: dict[str, Any] = self._ray.get(actor.coming)
        except self._ray.exceptions.RayError as error:
            raise _ours(error) from error
        actor.coming, actor.room = None, int(said["room"])
        return said

    def _dispatch(self) -> None:
        """The thread that gives jobs to actors and takes their outcomes."""
        try:
            while self._next():
                pass
        except Exception as error:
            self._end_all(error if isinstance(error, TLPError) else _ours(error))

    def _next(self) -> bool:
        """One round; False when nothing is left."""
        self._assign()
        coming = {actor.coming: actor for actor in self._actors if actor.coming is not None}
        awaited = [*self._flying, *coming]
        with self._changed:
            last = self._over or (self._closing and not self._queue and not self._flying)
            if not awaited and not last:
                self._changed.wait(_POLL_S)
        if awaited:
            self._ray.wait(awaited, num_returns=1, timeout=0 if last else _POLL_S)
            ready, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
            for reference in ready:
                if reference in coming:
                    self._returned(coming[reference])
                else:
                    self._collect(reference)
        return not last

    def _assign(self) -> None:
        while not self._stopping:
            free = [actor for actor in self._actors if actor.busy < actor.room]
            with self._changed:
                if not free or not self._queue:
                    return
                entry = self._queue.popleft()
            actor = max(free, key=lambda one: one.room - one.busy)
            actor.busy += 1
            self._flying[actor.handle.run.remote(entry.job)] = (actor, entry)

    def _collect(self, reference: Any) -> None:
        """Take an outcome; a job whose actor died goes to the front of the queue."""
        actor, entry = self._flying.pop(reference)
        actor.busy -= 1
        try:
            entry.outcome.set_result(self._ray.get(reference))
        except self._ray.exceptions.RayActorError as error:
            self._died(actor, entry, error)
        except self._ray.exceptions.RayError as error:
            entry.outcome.set_exception(_ours(error))

    def _died(self, actor: _Actor, entry: _Entry, error: Exception) -> None:
        if actor.room:
            self.warnings.add(
                WORKER_LOST.warning(
                    "a worker died; its cases go to the others, and Ray restarts it: "
                    f"{first_line(error)}"
                )
            )
            actor.room = 0
            actor.coming = actor.handle.about.options(max_task_retries=-1).remote()
        entry.deaths += 1
        if entry.deaths < MOST_DEATHS:
            with self._changed:
                self._queue.appendleft(entry)
            return
        message = (
            f"{entry.job.case.name}: its worker died {entry.deaths} times: {first_line(error)}"
        )
        entry.outcome.set_result(
            Outcome(entry.job.case.name, "failed", error="WorkerDied", message=message)
        )

    def _returned(self, actor: _Actor) -> None:
        """An actor that was started again takes jobs again, or is given up."""
        try:
            self._answer(actor)
        except TLPError as error:
            self.warnings.add(WORKER_LOST.warning(f"a worker is given up: {error}"))
            self._actors.remove(actor)
            if not self._actors:
                raise

    def _end_all(self, error: TLPError) -> None:
        with self._changed:
            self._broken = error
            entries = [*(entry for _, entry in self._flying.values()), *self._queue]
            self._queue.clear()
            self._flying.clear()
        for entry in entries:
            entry.outcome.set_exception(error)

    def _leave(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._ray.shutdown()


def _connect(address: str) -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise DependencyMissing(
            "a run on a cluster needs Ray, which is not installed",
            fix=Install(("tlp-mri[ray]",)),
        ) from error
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise DeviceUnavailable(
            f"no Ray cluster can be reached at {address} ({first_line(error)})",
            fix=RunTask("start", (("head", ""),), "on one machine of it", program="ray"),
        ) from error
    return ray


def actors_of(
    nodes: Sequence[Mapping[str, Any]], choice: EngineChoice
) -> list[tuple[str, int, int]]:
    """(node, CPUs, GPUs) of each actor."""
    alive = [
        (node["NodeID"], int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in nodes
        if node["Alive"]
    ]
    may = choice.engine == AUTO or find_engine(choice.engine).on_gpu
    on_gpu = may and choice.device != "cpu" and any(gpus for _, _, gpus in alive)
    if on_gpu:
        return [(node, max(1, cpus // gpus), 1) for node, cpus, gpus in alive for _ in range(gpus)]
    return [(node, cpus, 0) for node, cpus, _ in alive if cpus]


def _ours(error: Exception) -> TLPError:
    """Our own error inside one of Ray's, where there is one."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, TLPError):
        return cause
    return EngineError(f"Ray: {first_line(error)}")
