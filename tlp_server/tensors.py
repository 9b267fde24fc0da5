"""Tensors of the Open Inference Protocol: JSON, or binary data after it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import InputTooLarge, UsageError
from tlp_runtime.files.gzip import inflate
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec
from tlp_server.settings import MIB

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON = 64 * MIB
"""Bytes of a request's JSON: as Python numbers it takes many times as much."""

MOST_SLICES = 1024
"""Most slices per request."""

FP32 = np.dtype("<f4")


def require_inputs(spec: ModelSpec, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise :class:`UsageError` unless these are the network's inputs."""
    expected = spec.tensor_names
    if set(tensors) != set(expected):
        _refuse(f"got inputs {sorted(tensors)}, expected {sorted(expected)}.")
    shapes = {name: array.shape for name, array in tensors.items()}
    first = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(first) != 4 or first[1] != 1 or first[0] < 1:
        _refuse(f"inputs are {shapes}; expected (B, 1, height, width), the same for each.")
    if first[0] > MOST_SLICES:
        _refuse(f"{first[0]} slices in one request; {MOST_SLICES} are allowed.")
    if not spec.takes(*first[2:]):
        size = (spec.crop.height, spec.crop.width)
        _refuse(f"slices of {first[2:]}, expected {size}" + (" or the model's other sizes."
                if spec.sizes is not None else "."))  # fmt: skip
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            _refuse(f"input {name} holds NaN or infinite values.")


def parse(
    body: bytes, packed: str, length: str | None, limit: int
) -> tuple[Mapping[str, Any], dict[str, NDArray[np.float32]]]:
    """A request's JSON and its tensors.

    Parameters
    ----------
    packed
        Its Content-Encoding.
    length
        Bytes of JSON before the binary data, as the header says; None: all is JSON.
    limit
        Bytes that it may unpack to.

    Raises
    ------
    UsageError, InputTooLarge
        It is not of the protocol's form.
    """
    body = _unpacked(body, packed, limit)
    split = len(body)
    if length is not None:
        if not length.isdecimal() or len(length) > 18 or int(length) > len(body):
            _refuse(f"{HEADER_LENGTH} is {length!r}, the body holds {len(body)} bytes.")
        split = int(length)
    if split > MAX_JSON:
        raise InputTooLarge(
            f"{split} bytes of JSON; {MAX_JSON} are allowed.",
            fix="Send the tensors as binary data.",
        )
    try:
        asked = json.loads(body[:split])
    except (ValueError, RecursionError) as error:
        _refuse(f"the request is not JSON ({type(error).__name__}).")
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        _refuse("expected a JSON object with a list of inputs.")
    tensors: dict[str, NDArray[np.float32]] = {}
    rest = memoryview(body)[split:]
    for entry in asked["inputs"]:
        name, array, used = _tensor(entry, rest)
        if name in tensors:
            _refuse(f"input {name} is given twice.")
        tensors[name] = array
        rest = rest[used:]
    if len(rest):
        _refuse(f"{len(rest)} bytes follow the last tensor.")
    return asked, tensors


def _unpacked(body: bytes, packed: str, limit: int) -> bytes:
    if packed == "identity":
        return body
    try:
        if packed == "gzip":
            return inflate(body, limit)
        if packed == "deflate":
            stream = zlib.decompressobj()
            content = stream.decompress(body, limit + 1)
            if len(content) > limit:
                raise InputTooLarge(f"the body unpacks to more than {limit} bytes.")
            return content
    except (OSError, EOFError, zlib.error) as error:
        _refuse(f"the body is damaged ({error}).")
    return _refuse(f"Content-Encoding {packed}: expected gzip, deflate or none.")


def _tensor(entry: Any, rest: memoryview) -> tuple[str, NDArray[np.float32], int]:
    """An input's name, its values, and how many of the binary bytes they took."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        _refuse("every input needs a name.")
    name, shape = entry["name"], entry.get("shape")
    if entry.get("datatype") != "FP32":
        _refuse(f"input {name} is {entry.get('datatype')}, expected FP32.")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 8
        or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    ):
        _refuse(f"input {name}: its shape is {shape!r}.")
    count = 1
    for side in shape:
        count *= side
    parameters = entry.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if size != 4 * count or isinstance(size, bool) or size > len(rest):
            _refuse(f"input {name}: {size} bytes of data for {count} values, {len(rest)} are left.")
        values = np.frombuffer(rest[:size], FP32)
        return name, values.reshape(shape).astype(np.float32, copy=False), size
    try:
        values = np.asarray(entry.get("data"), dtype=np.float32).ravel()
    except (TypeError, ValueError, OverflowError):
        _refuse(f"input {name}: its data are not an array of numbers.")
    if values.size != count or entry.get("data") is None:
        _refuse(f"input {name}: {values.size} values for a shape of {count}.")
    return name, values.reshape(shape), 0


def wants_binary(asked: Mapping[str, Any]) -> bool:
    """Whether the one output is wanted as binary data."""
    parameters = asked.get("parameters") or {}
    if not isinstance(parameters, dict):
        _refuse("parameters are not an object.")
    binary = bool(parameters.get("binary_data_output", False))
    wanted = asked.get("outputs") or []
    if not isinstance(wanted, list):
        _refuse("outputs are not a list.")
    for entry in wanted:
        if not isinstance(entry, dict) or entry.get("name") != OUTPUT_NAME:
            _refuse(f"the model has one output, {OUTPUT_NAME}.")
        own = entry.get("parameters") or {}
        if not isinstance(own, dict) or own.get("classification"):
            _refuse("classification is not for images.")
        binary = bool(own.get("binary_data", binary))
    return binary


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)
