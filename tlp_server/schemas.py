"""Schemas of the API's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from tlp_runtime.options import options_of
from tlp_runtime.spec.model import MODALITIES
from tlp_runtime.synthesis.request import Request


class Advice(BaseModel):
    """What to do, in words."""

    kind: Literal["advice"]
    text: str


class Install(BaseModel):
    """Requirements to install, for whoever runs the server."""

    kind: Literal["install"]
    requirements: list[str]
    remove: list[str]
    again: bool
    purpose: str


class SetOption(BaseModel):
    """An option of the server, or a query parameter, to set."""

    kind: Literal["set-option"]
    option: str
    value: str
    purpose: str


class ChooseAnother(BaseModel):
    """Something that was given and has to be another."""

    kind: Literal["choose-another"]
    option: str
    what: str
    purpose: str


class RunTask(BaseModel):
    """A task of the command line, for whoever runs the server."""

    kind: Literal["run-task"]
    task: str
    options: list[tuple[str, str]]
    purpose: str
    program: str
    arguments: list[str]


Fix = Annotated[Advice | Install | SetOption | ChooseAnother | RunTask, Field(discriminator="kind")]


class Problem(BaseModel):
    kind: str = Field(examples=["SessionGone"])
    message: str = Field(
        description="The problem, and what a client can do about it.",
        examples=["there is no such session any more. Open the case again."],
    )
    problem: str = Field(examples=["there is no such session any more."])
    fixes: list[Fix] = Field(
        description="What to do, as data.",
        examples=[[{"kind": "advice", "text": "Open the case again."}]],
    )


class Failure(BaseModel):
    """The body of every 4xx and 5xx."""

    error: Problem
    revision: int | None = Field(
        None, description="With 409 of a stroke: the revision of the server's mask."
    )


class ProtocolFailure(BaseModel):
    """The body of every 4xx and 5xx under `/v2`, as the protocol has it."""

    error: str = Field(examples=["input t1 is FP16, expected FP32."])


class WarningInfo(BaseModel):
    """A warning about the scan (`input`) or about the engine and its runs (`operational`)."""

    code: str = Field(examples=["interpolated"])
    kind: Literal["input", "operational"]
    text: str
    numbers: dict[str, float | str]
    fixes: list[Fix]


class EvidenceInfo(BaseModel):
    threshold: float = Field(
        description="Change by the prompt, as a share of brain_level, above which a voxel is drawn."
    )
    drawn_ml: float = Field(description="Volume that is drawn, not seen.")
    brain_level: float = Field(
        description="Median of the unprompted synthesis over the brain, in [0, 1]."
    )


Modality = Literal["t1", "t2"]


class EngineInfo(BaseModel):
    name: str = Field(examples=["ort-cpu"])
    device: str = Field(examples=["cpu"])
    library: str = Field(examples=["onnxruntime 1.32.0"])


class DrawnLabels(BaseModel):
    """What tumour and oedema are in a mask that is saved."""

    tumour: int = Field(examples=[1])
    oedema: int = Field(examples=[2])


class ModelInfo(BaseModel):
    name: str = Field(examples=["my-model"])
    precision: str = Field(examples=["fp32"])
    inputs: list[Modality]
    prompt: bool = Field(description="Whether it takes a prompt; else drawing changes nothing.")
    labels: DrawnLabels


class Status(BaseModel):
    name: Literal["tlp"] = "tlp"
    version: str = Field(examples=["0.1.0"])
    instance: str = Field(description="New at every start of the server.")
    model: ModelInfo
    engines: list[EngineInfo]
    case: bool = Field(description="Whether the server was started with a case.")
    root: bool = Field(description="Whether a folder can be browsed.")
    notice: str
    sessions: int
    memory_mib: float = Field(description="Of all sessions.")


class Folder(BaseModel):
    path: str = Field(examples=["study"])
    folders: list[str] = Field(examples=[["patient"]])
    files: list[str] = Field(examples=[["t1.nii.gz"]])
    truncated: bool = Field(description="Whether there are more than can be listed.")
    unnamed: int = Field(description="Entries whose names are not UTF-8; they cannot be opened.")


def described(group: type, name: str) -> str:
    """Help text of an option of the runtime, which names it in the API too."""
    return next(
        form.help or one.help
        for one in options_of(group)
        for form in one.forms
        if name in (one.name, form.name)
    )


if TYPE_CHECKING:
    Opened = BaseModel
else:
    Opened = create_model(
        "Opened",
        __config__=ConfigDict(extra="forbid"),
        __doc__="Paths under the root, by modality; none of them for the server's own case.",
        **{
            name: (str | None, Field(None, max_length=4096, description=described(Request, name)))
            for name in MODALITIES
        },
    )


class SessionInfo(BaseModel):
    id: str
    instance: str
    name: str = Field(examples=["t1.nii.gz"])
    file_stem: str = Field(
        description="What the names of its files begin with.", examples=["patient_t1"]
    )
    shape: tuple[int, int, int] = Field(
        description="Voxels along x, y, z of the served grid, axes in RAS.",
        examples=[[240, 240, 155]],
    )
    affine: list[list[float]] = Field(description="4 x 4, voxel index to RAS in mm.")
    spacing_mm: tuple[float, float, float] = Field(examples=[[1.0, 1.0, 1.0]])
    images: list[Modality]
    first: int = Field(description="The axial slice (z) to show first.")
    slices: int = Field(description="How many slices the network runs.")
    interpolated: bool = Field(
        description="Whether the scan is not on the model's own grid, so that images are resampled."
    )
    warnings: list[WarningInfo]
    revision: int
    serial: int
    prompt: bool = Field(description="Whether the mask marks anything.")
    engine: EngineInfo
    memory_mib: float


class Revision(BaseModel):
    revision: int = Field(description="Of the mask as it is now.", examples=[1])


class Seconds(BaseModel):
    """Where the time went; what was not needed for these slices is missing."""

    prompt: float | None = Field(None, description="Taking the stroke's labels to the slices.")
    queue: float | None = Field(None, description="Waiting for the engine, of the first slice.")
    engine: float | None = Field(None, description="Running the network, of the first slice.")
    restore: float | None = Field(None, description="Putting slices back on the grid.")
    server: float = Field(description="Since the request was complete.")


class FrameHeader(BaseModel):
    """The JSON of a frame.

    Before it stands its length in bytes (uint32, little-endian), after it `bytes` bytes of voxels:
    for each slice nx x ny float32 (little-endian, x fastest), the same for all `images`.
    """

    serial: int = Field(description="To send as `since` next time.", examples=[3])
    revision: int = Field(description="Of the mask.", examples=[1])
    images: list[Literal["synthesis", "plain"]] = Field(examples=[["synthesis"]])
    slices: list[int] = Field(description="z of each.", examples=[[70, 71]])
    left: int = Field(description="Images of slices still to be run.", examples=[12])
    bytes: int = Field(examples=[307200])
    state: Literal["running", "done", "superseded", "failed"] = Field(
        description="The last frame has done, failed, or superseded: a newer stroke's stream "
        "brings the rest."
    )
    error: str | None = None
    seconds: Seconds
