"""Schemas of the API's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from tlp_runtime.options import options_of
from tlp_runtime.spec.model import MODALITIES
from tlp_runtime.synthesis.request import Request


class Failure(BaseModel):
    """The body of every 4xx and 5xx."""

    class Error(BaseModel):
        kind: str
        message: str = Field(description="The problem, and what a client can do about it.")
        problem: str
        fixes: list[dict[str, Any]] = Field(description="What to do, as data (docs/server.md).")

    error: Error
    revision: int | None = None


class WarningInfo(BaseModel):
    code: str
    kind: Literal["input", "operational"]
    text: str
    numbers: dict[str, float | str]
    fixes: list[dict[str, Any]]


class EvidenceInfo(BaseModel):
    threshold: float = Field(
        description="Change by the prompt, as a share of brain_level, above which a voxel is drawn."
    )
    drawn_ml: float = Field(description="Volume that is drawn, not seen.")
    brain_level: float = Field(
        description="Median of the unprompted synthesis over the brain, in [0, 1]."
    )


class EngineInfo(BaseModel):
    name: str
    device: str
    library: str


class ModelInfo(BaseModel):
    name: str
    precision: str
    inputs: list[str]


class Status(BaseModel):
    name: Literal["tlp"] = "tlp"
    version: str
    instance: str = Field(description="New at every start of the server.")
    model: ModelInfo
    engines: list[EngineInfo]
    case: bool = Field(description="Whether the server was started with a case.")
    root: bool = Field(description="Whether a folder can be browsed.")
    notice: str
    sessions: int
    memory_mib: float = Field(description="Of all sessions.")


class Folder(BaseModel):
    path: str
    folders: list[str]
    files: list[str]
    truncated: bool
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
    name: str
    shape: list[int] = Field(description="Voxels along x, y, z of the served grid, axes in RAS.")
    affine: list[list[float]]
    spacing_mm: list[float]
    images: list[str]
    first: int = Field(description="The axial slice (z) to show first.")
    slices: int = Field(description="How many slices the network runs.")
    interpolated: bool
    warnings: list[WarningInfo]
    revision: int
    serial: int
    prompt: bool = Field(description="Whether the mask marks anything.")
    engine: EngineInfo
    memory_mib: float


class Revision(BaseModel):
    revision: int
