"""One interactive case: a mask that is drawn on, and a synthesis that follows it."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import TLPError, Unfinished
from tlp_runtime.geometry.grid import Grid
from tlp_runtime.geometry.volume import Volume, require_same_grid
from tlp_runtime.interactive.canvas import IMAGES, SHOWN, Image, canvas
from tlp_runtime.interactive.parts import OEDEMA, TUMOUR, MaskBox, SliceState, Update
from tlp_runtime.interactive.queue import EngineQueue, Level, Ticket
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.synthesis.batches import SliceWork
from tlp_runtime.synthesis.evidence import Evidence
from tlp_runtime.synthesis.prepare import PreparedCase, brain_of, label_sources
from tlp_runtime.values.prompt import NO_LABELS, Labels, encode, with_labels


class InteractiveCase:
    """A prepared case that is run again where its prompt changes, and nowhere else.

    Thread-safe. Everything a user sees and draws lies on one grid, :attr:`grid`.

    Parameters
    ----------
    prepared
        The case, its images on one grid; a prompt in it is left out, :meth:`replace_mask` sets one.
    queue
        Runs the slices.
    notify
        Called, by any thread, when :meth:`update` may have something new; must not block.

    Attributes
    ----------
    grid
        The reference's voxels with axes in RAS order; nothing is interpolated.
    prepared
        The case without a prompt.
    images
        The modalities on that grid.
    mask
        (I, J, K) uint8, first axis fastest: 0, 1 tumour, 2 oedema.
    revision
        Counts the changes of the mask.
    serial
        Counts the changes of what is shown.
    first
        The k to show first: the middle of the slices with brain.
    """

    def __init__(
        self,
        prepared: PreparedCase,
        spec: ModelSpec,
        queue: EngineQueue,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self.reference = prepared.reference
        self.grid: Grid = self.reference.grid.reoriented(SHOWN)
        scans = prepared.request.scans
        self.images = {name: scan.volume.reoriented(SHOWN) for name, scan in scans.items()}
        self.queue = queue
        self.mask = np.zeros(self.grid.shape, np.uint8, order="F")
        self.revision = self.serial = 0
        self._spec = spec
        self._notify = notify
        self._tensors = {n: t for n, t in prepared.tensors.items() if n != PROMPT_NAME}
        self.prepared = prepared
        self._values = np.array([0, spec.prompt.tumour_value, spec.prompt.oedema_value], np.float32)
        self._sources = label_sources(self.grid, prepared, spec)
        self._reaches = _reaches(self._sources, self.grid)
        blank = np.zeros(self._sources.shape[1:], np.uint8)
        self._slices = {int(z): SliceState(blank) for z in np.flatnonzero(prepared.brain)}
        self._canvas = canvas(prepared, self._reaches)
        self._changed = {image: np.zeros(self.grid.shape[2], np.int64) for image in IMAGES}
        self._finished: deque[tuple[int, Image, Ticket]] = deque()
        self._lock = threading.Lock()  # of mask, slices and tickets; never held for long
        self._painting = threading.Lock()  # of the canvas; taken before the other
        self._unprompted: set[int] = set()
        self._error: TLPError | None = None
        self._urgent = False
        self._seconds: dict[str, float] = {}
        self._timed: set[tuple[int, Image]] | None = None
        held = self._reaches[list(self._slices)]
        self.first = self._first = (
            int(held[len(held) // 2].mean()) if len(held) else self.grid.shape[2] // 2
        )

    @property
    def count(self) -> int:
        """Slices that hold brain, and are run."""
        return len(self._slices)

    @property
    def interpolated(self) -> bool:
        """Whether the scan is not on the model's own grid."""
        return self.prepared.placement.offset is None

    @property
    def nbytes(self) -> int:
        """Memory it holds, nearly."""
        arrays = (
            *self._tensors.values(),
            *(volume.data for volume in self.images.values()),
            self.prepared.oriented.data,
            self._sources,
            self.mask,
        )
        return self._canvas.nbytes + sum(int(array.nbytes) for array in arrays)

    def shown(self, image: Image) -> NDArray[np.float32]:
        """A copy of one image as it is now: (I, J, K) float32 on :attr:`grid`."""
        with self._painting:
            return self._canvas.shown[image].copy(order="F")

    def drawn(self) -> Volume:
        """The mask on the reference's own grid, with its header.

        It has the labels that the model's specification begins with (1 and 2 in BraTS).
        """
        with self._lock:
            return self._drawn()

    def finished(self, image: Image) -> tuple[Volume, Volume]:
        """An image on the reference's own grid, with its header, and the mask it was made with.

        Raises
        ------
        Unfinished
            Slices are still to be run.
        """
        (volume,), drawn = self._finished_images([image])
        return volume, drawn

    def evidence(self) -> Evidence:
        """What the prompt alone made of the synthesis, on the reference's own grid.

        Raises
        ------
        Unfinished
            Slices are still to be run.
        EngineError
            The synthesis without a prompt is black.
        """
        (prompted, plain), _ = self._finished_images(["synthesis", "plain"])
        return Evidence.of(prompted, plain, brain_of(self.prepared))

    def _finished_images(self, images: Sequence[Image]) -> tuple[list[Volume], Volume]:
        """Images on the reference's own grid, and the mask that they were made with."""
        with self._painting:
            while True:
                self._paint()
                with self._lock:
                    left = self._left()
                    if left:
                        raise Unfinished(
                            f"{left} slices are still to be run",
                            fix="Wait for the last stroke's answer to end; where none is under "
                            "way, an empty stroke goes on.",
                        )
                    if not self._unprompted and not self._canvas.behind:
                        shown = self._canvas.shown
                        made = [self._as_file(shown[one].copy(order="F"), one) for one in images]
                        return made, self._drawn()

    def _drawn(self) -> Volume:
        labels = [0, *self._spec.prompt.drawn_labels]
        return self._as_file(np.array(labels, np.uint8)[self.mask], PROMPT_NAME)

    def _as_file(self, data: NDArray[Any], name: str) -> Volume:
        return Volume(data, self.grid.affine, name=name).restored_to(self.reference)

    def _left(self) -> int:
        """Images of slices still to be run."""
        return sum(len(state.wanted) for state in self._slices.values())

    def draw(self, box: MaskBox, labels: NDArray[np.uint8], *, first: int | None = None) -> int:
        """Put values into the mask and run the slices whose prompt this changes.

        Parameters
        ----------
        labels
            (I, J, K) of the box's shape: 0, 1 and 2.
        first
            The k that is looked at: it is run before the others.

        Returns
        -------
        The new revision.

        Raises
        ------
        GeometryError
            A box that is not wholly on the grid, or labels of another shape.
        ContentError
            Other values.
        """
        box.require(labels, self.grid)
        began = time.perf_counter()
        with self._lock:
            self.mask[box.slices] = labels
            self.revision += 1
            low, high = box.start[2], box.start[2] + box.shape[2] - 1
            touched = (self._reaches[:, 0] <= high) & (self._reaches[:, 1] >= low)
            changed = [int(z) for z in np.flatnonzero(touched) if self._relabel(int(z))]
            self._seconds = {"prompt": time.perf_counter() - began}
            self._timed = {(z, "synthesis") for z in changed}
            self._schedule(changed, self.first if first is None else first)
            return self.revision

    def replace_mask(self, labels: Volume, meaning: Labels = NO_LABELS) -> int:
        """Take a label map for the whole mask, as :func:`mask_of` does."""
        mask = mask_of(labels, self.reference, self._spec, meaning)
        return self.draw(MaskBox((0, 0, 0), self.grid.shape), mask)

    def go_on(self, first: int | None = None) -> None:
        """Run what is still to be run, the slice ``first`` before the others."""
        with self._lock:
            self._seconds, self._timed = {}, None
            self._schedule([], self.first if first is None else first)

    def pause(self) -> None:
        """Take back what waits to be run, until the next stroke or :meth:`go_on`."""
        with self._lock:
            self._pause()

    def _pause(self) -> None:
        for state in self._slices.values():
            for image, ticket in list(state.tickets.items()):
                if ticket.work is None:  # else the engine has it already
                    state.drop(image)

    def update(self, since: int = 0) -> Update:
        """Take what the engine has finished, and say what changed after ``since``."""
        with self._painting:
            began = time.perf_counter()
            self._paint()
            restored = time.perf_counter() - began
            groups = self._groups(since)
            with self._lock:
                return Update(
                    serial=self.serial,
                    groups=groups,
                    left=self._left(),
                    running=any(state.tickets for state in self._slices.values()),
                    more=self._canvas.behind,
                    error=self._error,
                    seconds={**self._seconds, "restore": restored},
                )

    def slices(self, image: Image, numbers: Iterable[int]) -> NDArray[np.float32]:
        """(n, J, I) float32: slices k of one image, first axis of the grid fastest."""
        with self._painting:
            shown = self._canvas.shown[image]
            return np.ascontiguousarray(np.stack([shown[:, :, k].T for k in numbers]))

    def _relabel(self, z: int) -> bool:
        """Take slice ``z`` of the placement from the mask; whether that changes what is run."""
        state = self._slices.get(z)
        if state is None:
            return False
        # The mask is contiguous in this order, so this is no copy; 0 of sources is "no voxel".
        flat = self.mask.reshape(-1, order="F")
        sources = self._sources[z]
        labels = np.where(sources > 0, flat[np.maximum(sources, 1) - 1], 0).astype(np.uint8)
        if np.array_equal(labels, state.labels):
            return False
        state.labels = labels
        state.done.discard("synthesis")
        state.drop("synthesis")
        self._unprompted.discard(z)
        return True

    def _schedule(self, changed: list[int], first: int) -> None:
        """Queue all that is to be run, in the order in which somebody waits for it."""
        self._error, self._first = None, first
        self._pause()
        for z, state in self._slices.items():
            if not state.prompted and "plain" in state.done and "synthesis" not in state.done:
                self._unprompted.add(z)
                state.done.add("synthesis")
        low, high = self._reaches[:, 0], self._reaches[:, 1]

        def order(entry: tuple[int, Image]) -> tuple[Level, bool, int]:
            z, image = entry
            away = int(max(low[z] - first, first - high[z], 0))
            stroke = image == "synthesis" or not self._slices[z].prompted
            seen = away == 0 and stroke
            level = Level.VISIBLE if seen else Level.STROKE if image == "synthesis" else Level.REST
            return level, z not in changed, away

        wanted = [
            (z, image)
            for z, state in self._slices.items()
            for image in state.wanted
            if image not in state.tickets
        ]
        tickets = []
        for z, image in sorted(wanted, key=order):
            ticket = Ticket(self._maker(z, image), order((z, image))[0], self._done(z, image))
            self._slices[z].tickets[image] = ticket
            tickets.append(ticket)
        self._urgent = True
        self.queue.submit(tickets)
        self._notify()

    def _maker(self, z: int, image: Image) -> Callable[[], SliceWork | None]:
        """A function that makes the work of slice ``z``, with the prompt as it is by then.

        Neither it nor what :meth:`_done` gives holds the case: what a queue still has of a case
        that was closed keeps none of its arrays in memory.
        """
        weak = weakref.ref(self)

        def make() -> SliceWork | None:
            case = weak()
            return None if case is None else case._work(z, image)

        return make

    def _work(self, z: int, image: Image) -> SliceWork:
        labels = self._slices[z].labels
        prompt = self._values[labels if image == "synthesis" else np.zeros_like(labels)]
        # copies: views would keep the whole arrays for as long as the queue has the work
        tensors = {name: array[z : z + 1].copy() for name, array in self._tensors.items()}
        placement = self.prepared.placement
        return SliceWork(
            {**tensors, PROMPT_NAME: prompt[None]},
            window=placement.window,
            corners=placement.corners,
            weights=placement.weights if len(placement.corners) > 1 else None,
        )

    def _done(self, z: int, image: Image) -> Callable[[Ticket], None]:
        weak = weakref.ref(self)

        def done(ticket: Ticket) -> None:
            case = weak()
            if case is not None:
                case._finished.append((z, image, ticket))
                case._notify()

        return done

    def _paint(self) -> None:
        """Put what is finished on the canvas, and bring that up to date."""
        with self._lock:
            finished = self._take()
            copies, self._unprompted = self._unprompted, set()
            waiting = [ticket.level for s in self._slices.values() for ticket in s.tickets.values()]
            first = self._first
            urgent = not waiting or (self._urgent and Level.VISIBLE not in waiting)
            self._urgent = self._urgent and not urgent
        for z, image, values in finished:
            self._canvas.put(image, z, values)
        for z in copies:
            self._canvas.copy(z)
        changed = self._canvas.settle(first=first, urgent=urgent)
        if any(len(numbers) for numbers in changed.values()):
            self.serial += 1
            for image, numbers in changed.items():
                self._changed[image][list(numbers)] = self.serial

    def _take(self) -> list[tuple[int, Image, NDArray[np.float32]]]:
        """Results that are still wanted: slice, image, (Y, X) values."""
        taken = []
        while self._finished:
            z, image, ticket = self._finished.popleft()
            state = self._slices[z]
            if state.tickets.get(image) is not ticket:
                continue  # a newer stroke changed the slice
            del state.tickets[image]
            if ticket.error is not None:
                self._error = ticket.error
                continue
            assert isinstance(ticket.work, SliceWork)
            taken.append((z, image, ticket.work.images[0]))
            state.done.add(image)
            if image == "plain" and not state.prompted:
                self._unprompted.add(z)
                state.done.add("synthesis")
            if self._timed is None or (z, image) in self._timed:
                self._seconds.setdefault("queue", ticket.queue_s)
                self._seconds.setdefault("engine", ticket.engine_s)
        return taken

    def _groups(self, since: int) -> tuple[tuple[tuple[Image, ...], tuple[int, ...]], ...]:
        newer = {image: self._changed[image] > since for image in IMAGES}
        shown = self._canvas.shown
        both = [
            int(k)
            for k in np.flatnonzero(newer["plain"] & newer["synthesis"])
            if np.array_equal(shown["plain"][:, :, k], shown["synthesis"][:, :, k])
        ]
        groups: list[tuple[tuple[Image, ...], tuple[int, ...]]] = [(IMAGES, tuple(both))]
        for image in reversed(IMAGES):
            alone = [int(k) for k in np.flatnonzero(newer[image]) if k not in both]
            groups.append(((image,), tuple(alone)))
        return tuple(group for group in groups if group[1])


def mask_of(
    labels: Volume, reference: Volume, spec: ModelSpec, meaning: Labels = NO_LABELS
) -> NDArray[np.uint8]:
    """A label map of the reference's grid, in any axis order, as a mask.

    Parameters
    ----------
    meaning
        What its labels mean, if not as in BraTS.

    Returns
    -------
    (I, J, K) uint8 as of :attr:`InteractiveCase.mask`.

    Raises
    ------
    GeometryError
        It lies on another grid.
    ContentError
        Labels without a meaning.
    """
    require_same_grid(reference, labels, "A prompt must be drawn on the image that is shown.")
    code = with_labels(spec.prompt, meaning)
    values = encode(labels.data, code, labels.name)
    turned = replace(labels, data=values).reoriented(SHOWN).data
    mask = np.zeros(turned.shape, np.uint8, order="F")
    mask[turned == code.oedema_value] = OEDEMA
    mask[turned == code.tumour_value] = TUMOUR
    return mask


def _reaches(sources: NDArray[np.int32], grid: Grid) -> NDArray[np.int_]:
    """(Z, 2): first and last k whose voxels a slice of the placement takes labels from."""
    plane = grid.shape[0] * grid.shape[1]
    reaches = np.empty((len(sources), 2), np.int_)
    for z, numbers in enumerate(sources):
        known = (numbers[numbers > 0] - 1) // plane
        reaches[z] = (known.min(), known.max()) if known.size else (0, -1)
    return reaches
