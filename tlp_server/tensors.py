"""Tensors of the Open Inference Protocol: JSON, or binary data after it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import InputTooLarge, UsageError
from tlp_runtime.files.gzip import inflate
from tlp_runtime.spec.model import OUTPUT_NAME, PROMPT_NAME, ModelSpec
from tlp_server.settings import MIB

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON = 8 * MIB
"""Bytes of a request's JSON. Python takes it apart in one go, during which nothing else runs."""
JSON_EXPANDS = 20
"""Bytes of memory for each byte of JSON while it is taken apart, at the most."""
MOST_LISTS = 1 << 16
"""Lists and objects in a request's JSON; a nested tensor has one per row."""

MOST_SLICES = 1024
"""Most slices per request."""
MOST_SIDE = 1 << 16
"""Longest axis of a tensor."""
TOLERANCE = 1e-3
"""By which values may lie outside their range: scaling in float32 rounds."""

FP32 = np.dtype("<f4")


def require_inputs(spec: ModelSpec, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise :class:`UsageError` unless these are inputs that the network was made for."""
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
    prompt = (0.0, max(spec.prompt.tumour_value, spec.prompt.oedema_value))
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            _refuse(f"input {name} holds NaN or infinite values.")
        low, high = prompt if name == PROMPT_NAME else spec.intensity.range
        found = float(array.min()), float(array.max())
        if found[0] < low - TOLERANCE or found[1] > high + TOLERANCE:
            _refuse(
                f"input {name} holds values from {found[0]:g} to {found[1]:g}; prepared slices "
                f"lie between {low:g} and {high:g}."
            )


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
    text = body[:split]
    if text.count(b"[") + text.count(b"{") > MOST_LISTS:
        raise InputTooLarge(
            f"more than {MOST_LISTS} lists and objects in the request's JSON.",
            fix="Send the tensors as binary data.",
        )
    try:
        asked = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        _refuse(f"the request is not JSON ({type(error).__name__}).")
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        _refuse("expected a JSON object with a list of inputs.")
    if "id" in asked:
        _text(asked["id"], "id")
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
    if packed not in ("gzip", "deflate"):
        _refuse(f"Content-Encoding {packed}: expected gzip, deflate or none.")
    try:
        return inflate(body, limit, "gzip" if packed == "gzip" else "deflate")
    except InputTooLarge as error:
        raise InputTooLarge(f"the body {error.problem}", fix=error.fixes) from None
    except (OSError, EOFError) as error:
        _refuse(f"the body is damaged ({error}).")


def _tensor(entry: Any, rest: memoryview) -> tuple[str, NDArray[np.float32], int]:
    """An input's name, its values, and how many of the binary bytes they took."""
    if not isinstance(entry, dict):
        _refuse("every input is an object.")
    name, shape = _text(entry.get("name"), "an input's name"), entry.get("shape")
    if entry.get("datatype") != "FP32":
        _refuse(f"input {name} is {str(entry.get('datatype'))[:40]}, expected FP32.")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(map(_is_side, shape)):
        _refuse(f"input {name}: expected a shape of 1 to 8 numbers, none above {MOST_SIDE}.")
    count = math.prod(shape)
    size = _parameters(entry, f"input {name}").get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != 4 * count or size > len(rest):
            _refuse(
                f"input {name}: binary_data_size is not {4 * count}, as of {count} values, or "
                f"more than the {len(rest)} bytes that are left."
            )
        values = np.frombuffer(rest[:size], FP32)
        return name, values.reshape(shape).astype(np.float32, copy=False), size
    return name, _numbers(entry.get("data"), shape, name), 0


def _numbers(data: Any, shape: list[int], name: str) -> NDArray[np.float32]:
    """A tensor of JSON numbers: in one row, or nested as its shape says."""
    flat, sides = data, list[int]()
    while isinstance(flat, list) and flat and all(type(part) is list for part in flat):
        sides.append(len(flat))
        if len({len(part) for part in flat}) > 1:
            _refuse(f"input {name}: its data are lists of different lengths.")
        flat = list(chain.from_iterable(flat))
    if not isinstance(flat, list) or not set(map(type, flat)) <= {int, float}:
        _refuse(f"input {name}: its data are not an array of numbers.")
    if len(flat) != math.prod(shape):
        _refuse(f"input {name}: {len(flat)} values for a shape of {math.prod(shape)}.")
    if sides and sides != shape[:-1]:
        _refuse(f"input {name}: its data are not nested as its shape is.")
    try:
        with np.errstate(over="ignore"):  # what is too large is refused as infinite
            return np.asarray(flat, dtype=np.float32).reshape(shape)
    except OverflowError:
        _refuse(f"input {name}: its data hold numbers that are too large.")


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_SIDE


def _text(value: Any, what: str) -> str:
    """A string that can be repeated in an answer."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        _refuse(f"{what} is not text; it holds half of a surrogate pair.")
    return _refuse(f"{what} is missing or is not a string.")


def _parameters(entry: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        _refuse(f"{what}: its parameters are not an object.")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _refuse(f"{name} is neither true nor false.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"the request's JSON holds {name}, which is not JSON.")


def wants_binary(asked: Mapping[str, Any]) -> bool:
    """Whether the one output is wanted as binary data."""
    binary = _flag(_parameters(asked, "the request"), "binary_data_output", False)
    wanted = asked.get("outputs")
    if wanted is None:
        return binary
    if not isinstance(wanted, list):
        _refuse("outputs are not a list.")
    for entry in wanted:
        if not isinstance(entry, dict) or entry.get("name") != OUTPUT_NAME:
            _refuse(f"the model has one output, {OUTPUT_NAME}.")
        own = _parameters(entry, f"output {OUTPUT_NAME}")
        if own.get("classification"):
            _refuse("classification is not for images.")
        binary = _flag(own, "binary_data", binary)
    return binary


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)
