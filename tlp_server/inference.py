"""The Open Inference Protocol, version 2, on prepared tensors: as tritonclient uses it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from enum import Enum
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from numpy.typing import NDArray

from tlp_runtime.errors import EngineError, ModelMissing, TLPError
from tlp_runtime.interactive.queue import EngineQueue, Level, Ticket
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec
from tlp_runtime.synthesis.batches import SliceWork
from tlp_server.api import ERRORS, TOKEN, Service, service_of
from tlp_server.schemas import ProtocolFailure
from tlp_server.tensors import (
    FP32,
    HEADER_LENGTH,
    JSON_EXPANDS,
    MAX_JSON,
    parse,
    require_inputs,
    wants_binary,
)

MODEL_VERSION = "1"
Served = Annotated[Service, Depends(service_of)]
_TENSOR = {"name": "t1", "datatype": "FP32", "shape": [1, 1, 192, 160]}
_BINARY = "application/octet-stream"
_BODY = {
    "requestBody": {
        "description": "Inputs as JSON numbers, or as JSON with `binary_data_size` in their "
        f"parameters, {HEADER_LENGTH} bytes of it, and float32 values (little-endian) after it.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {"inputs": [{**_TENSOR, "data": [-1.0]}]},
            },
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The output as JSON numbers, or binary after the JSON where that is wanted.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "model_name": "my-model",
                    "model_version": "1",
                    "outputs": [{**_TENSOR, "name": OUTPUT_NAME, "data": [-1.0]}],
                },
            },
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

_TAGS: list[str | Enum] = ["Open Inference Protocol"]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProtocolFailure, "description": text} for status, text in ERRORS.items()
}

health = APIRouter(prefix="/v2/health", tags=_TAGS, responses=_ERRORS)
"""What a supervisor asks without a token."""

router = APIRouter(prefix="/v2", tags=_TAGS, dependencies=[Depends(TOKEN)], responses=_ERRORS)


@health.get("/live")
async def live() -> dict[str, bool]:
    """The server answers."""
    return {"live": True}


@health.get("/ready")
async def ready() -> dict[str, bool]:
    """The model is loaded."""
    return {"ready": True}


@router.get("")
async def server_metadata() -> dict[str, Any]:
    """Name, version, extensions."""
    return {"name": "tlp", "version": version("tlp-mri"), "extensions": ["binary_tensor_data"]}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{number}")
async def model_metadata(service: Served, name: str, number: str = MODEL_VERSION) -> dict[str, Any]:
    """Tensors of the model; its whole specification is among the parameters."""
    spec = _require_model(service, name, number)
    sides = [-1, -1] if spec.sizes is not None else [spec.crop.height, spec.crop.width]
    tensor = {"datatype": "FP32", "shape": [-1, 1, *sides]}
    return {
        "name": service.bundle.name,
        "versions": [MODEL_VERSION],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": tensor_name, **tensor} for tensor_name in spec.tensor_names],
        "outputs": [{"name": OUTPUT_NAME, **tensor}],
        "parameters": {"tlp.spec": spec.to_json()},
    }


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{number}/ready")
async def model_ready(service: Served, name: str, number: str = MODEL_VERSION) -> dict[str, Any]:
    """The model is loaded."""
    _require_model(service, name, number)
    return {"name": name, "ready": True}


@router.post(
    "/models/{name}/infer", openapi_extra=_BODY, response_class=Response, responses=_ANSWER
)
@router.post(
    "/models/{name}/versions/{number}/infer",
    openapi_extra=_BODY,
    response_class=Response,
    responses=_ANSWER,
)
async def infer(
    request: Request, service: Served, name: str, number: str = MODEL_VERSION
) -> Response:
    """Run slices: tensors as JSON, or binary after the JSON (binary tensor data extension)."""
    spec = _require_model(service, name, number)
    body = await request.body()
    headers = request.headers
    packed, length = headers.get("content-encoding", "identity").lower(), headers.get(HEADER_LENGTH)
    with service.sessions.taken(JSON_EXPANDS * min(len(body), MAX_JSON)):
        asked, tensors = await asyncio.to_thread(
            parse, body, packed, length, service.settings.max_body
        )
    binary = wants_binary(asked)
    require_inputs(spec, tensors)
    queue = min(service.queues, key=lambda queue: queue.waiting)
    try:
        image = await asyncio.wait_for(run(queue, tensors), service.settings.timeout_s)
    except TimeoutError:
        seconds = service.settings.timeout_s
        raise EngineError(
            f"the engine took more than {seconds:g} s.",
            fix="Send fewer slices.",
        ) from None
    output: dict[str, Any] = {"name": OUTPUT_NAME, "datatype": "FP32", "shape": list(image.shape)}
    answer = {
        "model_name": service.bundle.name,
        "model_version": MODEL_VERSION,
        **({"id": asked["id"]} if "id" in asked else {}),
        "outputs": [output],
    }
    if not binary:
        return StreamingResponse(_in_json(answer, image), media_type="application/json")
    payload = image.astype(FP32, copy=False).tobytes()
    output["parameters"] = {"binary_data_size": len(payload)}
    text = json.dumps(answer).encode()
    return Response(
        text + payload,
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(text))},
    )


async def _in_json(answer: dict[str, Any], image: NDArray[np.float32]) -> AsyncIterator[bytes]:
    """The answer with its output's numbers, one slice at a time: others are served in between."""
    start, end = json.dumps(answer).rsplit("}]", 1)
    yield f'{start}, "data": ['.encode()
    for number, one in enumerate(image):
        numbers = await asyncio.to_thread(_numbers, one)
        yield ((", " if number else "") + numbers[1:-1]).encode()
    yield f"]}}]{end}".encode()


def _numbers(values: NDArray[np.float32]) -> str:
    return json.dumps(values.ravel().tolist())


async def run(
    queue: EngineQueue, tensors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Run (B, 1, H, W) tensors in the queue, in parts that let others in between.

    Raises
    ------
    EngineError, MemoryExhausted
        Tensors that are not the network's, or a failed run.
    """
    count = len(next(iter(tensors.values())))
    loop, left, finished = asyncio.get_running_loop(), count, asyncio.Event()
    works = [
        SliceWork({name: array[n : n + 1, 0] for name, array in tensors.items()}, unit=False)
        for n in range(count)
    ]
    errors: list[TLPError] = []
    lock = threading.Lock()

    def done(ticket: Ticket) -> None:
        nonlocal left
        with lock:
            left -= 1
            if ticket.error is not None:
                errors.append(ticket.error)
            if not left:
                loop.call_soon_threadsafe(finished.set)

    tickets = [Ticket(lambda work=work: work, Level.STROKE, done) for work in works]  # type: ignore[misc]
    try:
        queue.submit(tickets)
        await finished.wait()
    finally:
        for ticket in tickets:
            ticket.cancelled = True
    if errors:
        raise errors[0]
    return np.concatenate([work.images for work in works])[:, None]


def _require_model(service: Service, name: str, number: str) -> ModelSpec:
    if name != service.bundle.name or number != MODEL_VERSION:
        raise ModelMissing(
            f"there is no model {name} version {number} here; this server has "
            f"{service.bundle.name} version {MODEL_VERSION}."
        )
    return service.bundle.spec
