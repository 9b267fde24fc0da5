"""Sessions over HTTP: open a case, draw, get slices back."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Depends, Query, UploadFile
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer

from tlp_runtime.errors import (
    Forbidden,
    InputTooLarge,
    InputUnreadable,
    OutOfStep,
    SetOption,
    UsageError,
)
from tlp_runtime.files.gzip import inflate
from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.interactive.parts import MaskBox
from tlp_runtime.interactive.queue import EngineQueue
from tlp_runtime.io.nifti import parse_volume, stem, voxels_claimed_by
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.synthesis.prepare import require_modalities
from tlp_runtime.synthesis.provenance import DESCRIPTION
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.prompt import parse_labels
from tlp_server.cases import Read, ViewerCase, read_case
from tlp_server.files import Root
from tlp_server.frames import MEDIA_TYPE
from tlp_server.images import FileName, ImageName, file_bytes, image_bytes
from tlp_server.schemas import (
    DrawnLabels,
    EngineInfo,
    EvidenceInfo,
    Failure,
    Folder,
    ModelInfo,
    Opened,
    Revision,
    SessionInfo,
    Status,
    WarningInfo,
    described,
)
from tlp_server.sessions import Session, Sessions
from tlp_server.settings import Settings

FLOAT64 = 8
LABEL_BYTES = 16
"""Per voxel of a label map, while it is read: as sent, as float64, as labels."""
GZIP, BINARY = "application/gzip", "application/octet-stream"
BYTES: dict[str, Any] = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class Service:
    """State that the routes share."""

    settings: Settings
    bundle: Bundle
    queues: tuple[EngineQueue, ...]
    sessions: Sessions
    case: ViewerCase | None
    root: Root | None
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


def service_of(request: HttpRequest) -> Service:
    """The service of the application."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]
Number = Annotated[int, Query(ge=0, le=2**53)]
"""A counter; so far JSON's numbers are whole in every language."""
Index = Annotated[int | None, Query(ge=0, le=65535)]
Count = Annotated[int | None, Query(ge=1, le=65535)]

ERRORS = {
    400: "options that cannot go together",
    401: "no token, or a wrong one",
    403: "not the client's business",
    404: "no such session, file, case or model",
    408: "the body came too slowly",
    413: "larger than the server takes",
    421: "another host's name",
    422: "an image, mask or request that cannot be used",
    429: "no room for another session or request now",
    500: "a defect; the server's log says where",
    503: "the engine failed, or memory ran out",
}
"""What any request may be answered with."""

TOKEN = HTTPBearer(
    auto_error=False,  # the gate has checked it
    description="The token of the address that the server printed; none where it was started "
    "without one.",
)

router = APIRouter(
    prefix="/api",
    tags=["sessions"],
    dependencies=[Depends(TOKEN)],
    responses={status: {"model": Failure, "description": text} for status, text in ERRORS.items()},
)


@router.get("/status")
async def status(service: Served) -> Status:
    """Version, model, engines and load of this server."""
    bundle, sessions = service.bundle, service.sessions
    tumour, oedema = bundle.spec.prompt.drawn_labels
    return Status(
        version=version("tlp-mri"),
        instance=service.instance,
        model=ModelInfo(
            name=bundle.name,
            precision=bundle.precision,
            inputs=list(bundle.spec.inputs),  # type: ignore[arg-type]
            prompt=bundle.spec.network.prompt,
            labels=DrawnLabels(tumour=tumour, oedema=oedema),
        ),
        engines=[_engine(queue) for queue in service.queues],
        case=service.case is not None,
        root=service.root is not None,
        notice=f"{DESCRIPTION}.",
        sessions=len(sessions),
        memory_mib=round(sessions.nbytes / 2**20, 1),
    )


@router.get("/files")
async def files(service: Served, path: Annotated[str, Query(max_length=4096)] = "") -> Folder:
    """Folders and NIfTI files of a folder under the root."""
    listing = await asyncio.to_thread(_root(service).listing, path)
    return Folder(
        path=path,
        folders=list(listing.folders),
        files=list(listing.files),
        truncated=listing.truncated,
        unnamed=listing.unnamed,
    )


@router.post("/sessions", status_code=201)
async def open_session(service: Served, wanted: Opened) -> SessionInfo:
    """Open scans under the root, or the server's own case."""
    paths = {name: path for name, path in wanted.model_dump().items() if path}
    case = service.case
    if not paths:
        if case is None:
            raise UsageError("the server was started without a case: name a t1, a t2 or both.")
        return _info(service, await service.sessions.open(lambda: case, case.voxels))
    root = _root(service)
    require_modalities(paths, service.bundle.spec)

    def read() -> Request:
        return Request(
            images={name: root.read(path, service.settings) for name, path in paths.items()}
        )

    voxels = await asyncio.to_thread(lambda: [root.voxels(path) for path in paths.values()])
    return await _opened(service, next(iter(paths.values())), read, sum(voxels))


@router.post("/sessions/upload", status_code=201)
async def upload_session(
    service: Served, t1: UploadFile | None = None, t2: UploadFile | None = None
) -> SessionInfo:
    """Open scans that are sent: NIfTI, compressed or not."""
    sent = {name: file for name, file in (("t1", t1), ("t2", t2)) if file is not None}
    require_modalities(sent, service.bundle.spec)
    contents = {name: await file.read() for name, file in sent.items()}
    voxels = sum(voxels_claimed_by(content) for content in contents.values())
    names = {name: _plain_name(file.filename) or name for name, file in sent.items()}
    limit = service.settings.max_volume

    def read() -> Request:
        return Request(
            images={
                name: parse_volume(contents.pop(name), names[name], limit=limit)
                for name in list(contents)
            }
        )

    return await _opened(service, next(iter(names.values())), read, voxels)


@router.get("/sessions/{session_id}")
async def show_session(service: Served, session_id: str) -> SessionInfo:
    """What a session is."""
    return _info(service, service.sessions.find(session_id))


@router.delete("/sessions/{session_id}", status_code=204)
async def close_session(
    service: Served, session_id: str, after_s: Annotated[float, Query(ge=0, le=3600)] = 0
) -> None:
    """Forget a session: at once, or unless it is used again within so many seconds."""
    if after_s:
        service.sessions.leave(session_id, after_s)
    else:
        service.sessions.drop(session_id)


@router.get(
    "/sessions/{session_id}/images/{name}",
    response_class=Response,
    responses={200: {"content": {GZIP: {"schema": BYTES}}, "description": "NIfTI, compressed"}},
)
async def image(service: Served, session_id: str, name: ImageName) -> Response:
    """An image as it is shown: axes in RAS order, sform and qform alike.

    `plain` is the synthesis without a prompt. Both are 0 in [0, 1] where nothing was run yet.
    """
    case = service.sessions.find(session_id).case
    content = await asyncio.to_thread(image_bytes, case, name)
    return Response(content, media_type=GZIP)


@router.get(
    "/sessions/{session_id}/evidence",
    responses={409: {"model": Failure, "description": "slices are still to be run"}},
)
async def evidence(service: Served, session_id: str) -> EvidenceInfo:
    """How much of the synthesis the prompt alone made: what is drawn, not seen."""
    case = service.sessions.find(session_id).case
    found = await asyncio.to_thread(case.evidence)
    return EvidenceInfo(**asdict(found.record))


@router.get(
    "/sessions/{session_id}/files/{name}",
    response_class=Response,
    responses={
        200: {"content": {GZIP: {"schema": BYTES}}, "description": "NIfTI, compressed"},
        409: {"model": Failure, "description": "slices are still to be run"},
    },
)
async def file(service: Served, session_id: str, name: FileName) -> Response:
    """An image to keep: on the scan's own grid, with its header."""
    session = service.sessions.find(session_id)
    content = await asyncio.to_thread(file_bytes, session.case, name)
    download = {"prompt": "prompt", "synthesis": "synth-t1ce", "plain": "synth-t1ce_no-prompt",
                "evidence": "synth-t1ce_evidence"}  # fmt: skip
    file = f"{file_stem(session.name)}_{download[name]}.nii.gz"
    plain = file.encode("ascii", "replace").decode().replace("?", "_")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file)}"
    return Response(content, media_type=GZIP, headers={"Content-Disposition": disposition})


@router.put(
    "/sessions/{session_id}/prompt",
    openapi_extra={"requestBody": {"content": {BINARY: {"schema": BYTES}}, "required": True}},
)
async def put_prompt(
    request: HttpRequest,
    service: Served,
    session_id: str,
    labels: Annotated[
        list[str] | None, Query(max_length=8, description=described(Prompt, "labels"))
    ] = None,
) -> Revision:
    """Replace the mask by a NIfTI label map on the scan's grid, in any axis order."""
    session = service.sessions.find(session_id)
    content = await request.body()

    def take() -> int:
        drawn = parse_volume(content, "the prompt", limit=service.settings.max_volume)
        return session.case.replace_mask(drawn, parse_labels(labels or ()))

    voxels = min(voxels_claimed_by(content), service.settings.max_volume // FLOAT64)
    with service.sessions.taken(LABEL_BYTES * voxels):
        async with session.strokes:
            return Revision(revision=await asyncio.to_thread(take))


@router.post(
    "/sessions/{session_id}/strokes",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {MEDIA_TYPE: {"schema": BYTES}},
            "description": "Frames until nothing is left to be run. Each is the length of its "
            "header in bytes (uint32, little-endian), the header (JSON, schema `FrameHeader`) and "
            "`bytes` bytes of float32 voxels (little-endian, x fastest).",
        },
        409: {"model": Failure, "description": "not the stroke that follows"},
    },
    openapi_extra={
        "requestBody": {
            "content": {BINARY: {"schema": BYTES}},
            "required": False,
        }
    },
)
async def stroke(
    request: HttpRequest,
    service: Served,
    session_id: str,
    revision: Number,
    since: Number = 0,
    first: Index = None,
    x: Index = None,
    y: Index = None,
    z: Index = None,
    nx: Count = None,
    ny: Count = None,
    nz: Count = None,
) -> StreamingResponse:
    """Change a box of the mask, or nothing, and get every slice that changes.

    The body holds the box's values (0, 1 tumour, 2 oedema; uint8, x fastest), `Content-Encoding`
    gzip or none. `revision` is the mask's after the stroke; `since` the last serial that the
    client has; `first` the axial slice that is looked at.
    """
    session = service.sessions.find(session_id)
    case = session.case
    given = [value for value in (x, y, z, nx, ny, nz) if value is not None]
    box = None
    if given:
        if len(given) < 6:
            raise UsageError("a box is x, y, z, nx, ny and nz; some are missing.")
        box = MaskBox((given[0], given[1], given[2]), (given[3], given[4], given[5]))
        box.require_on(case.grid)  # what it holds is unpacked by its size
    body = await request.body()
    began = time.perf_counter()
    async with session.strokes:
        if box is None:
            if body:
                raise UsageError("a body without a box: name x, y, z, nx, ny and nz.")
            if revision != case.revision:
                raise _out_of_step(case)
            await asyncio.to_thread(case.go_on, first)
        else:
            if revision != case.revision + 1:
                raise _out_of_step(case)
            packed = request.headers.get("content-encoding", "identity").lower()
            labels = await asyncio.to_thread(_labels, body, packed, box)
            await asyncio.to_thread(case.draw, box, labels, first=first)
        frames = session.stream(since, began, service.settings.timeout_s)
    return StreamingResponse(frames, media_type=MEDIA_TYPE)


def _labels(body: bytes, packed: str, box: MaskBox) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A stroke's values as an array of the box's shape."""
    count = math.prod(box.shape)
    if packed not in ("gzip", "identity"):
        raise UsageError(f"Content-Encoding {packed}: expected gzip or none.")
    try:
        values = inflate(body, count) if packed == "gzip" else body
    except (OSError, EOFError) as error:
        raise InputUnreadable(
            f"the stroke is damaged ({error}).",
            fix="Send it again.",
        ) from None
    except InputTooLarge as error:
        raise InputTooLarge(f"the stroke {error.problem}") from None
    if len(values) != count:
        raise InputUnreadable(f"the stroke holds {len(values)} values, its box {count}.")
    return np.frombuffer(values, np.uint8).reshape(box.shape, order="F")


async def _opened(service: Service, name: str, read: Read, voxels: int) -> SessionInfo:
    spec = service.bundle.spec
    if voxels * FLOAT64 > service.settings.max_volume * len(spec.inputs):
        voxels = 0  # reading it will say that it is too large
    session = await service.sessions.open(lambda: read_case(name, read, spec), voxels)
    return _info(service, session)


def _info(service: Service, session: Session) -> SessionInfo:
    case = session.case
    return SessionInfo(
        id=session.id,
        instance=service.instance,
        name=session.name,
        file_stem=file_stem(session.name),
        shape=case.grid.shape,
        affine=case.grid.affine.tolist(),
        spacing_mm=case.grid.spacing_mm,
        images=list(case.images),  # type: ignore[arg-type]
        first=case.first,
        slices=case.count,
        interpolated=case.interpolated,
        warnings=[WarningInfo(**warning.to_dict()) for warning in session.warnings],
        revision=case.revision,
        serial=case.serial,
        prompt=bool(case.mask.any()),
        engine=_engine(case.queue),
        memory_mib=round(case.nbytes / 2**20, 1),
    )


def _engine(queue: EngineQueue) -> EngineInfo:
    engine = queue.engine
    return EngineInfo(name=engine.name, device=engine.device, library=engine.library)


def _root(service: Service) -> Root:
    if service.root is None:
        raise Forbidden(
            "this server opens no files",
            fix=("Upload the scan.", SetOption("root", "a folder", "to open files in it")),
        )
    return service.root


def _out_of_step(case: InteractiveCase) -> OutOfStep:
    return OutOfStep(
        f"the mask is at revision {case.revision} here",
        revision=case.revision,
        fix=f"Send the whole mask with {case.revision + 1}.",
    )


def file_stem(name: str) -> str:
    """What the names of a case's files begin with: its own name and its folder's.

    Scans are often called alike, such as ``t1.nii.gz`` in a folder per patient.
    """
    path = PurePosixPath(name)
    parts = (*path.parent.parts[-1:], stem(Path(path.name)))
    return re.sub(r"[^\w.-]+", "_", "_".join(parts)).strip("._") or "case"


def _plain_name(name: str | None) -> str:
    """A file's name without folders, for messages to the client alone."""
    return PurePosixPath((name or "").replace("\\", "/")).name[:200]
