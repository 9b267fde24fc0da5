"""What holds for a run of many cases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tlp_runtime.errors import UsageError
from tlp_runtime.options import OptionGroup, option


@dataclass(frozen=True, kw_only=True)
class CohortOptions(OptionGroup):
    """Where many cases come from, and what runs them. Valid once constructed.

    Parameters
    ----------
    cases
        CSV table of cases (case, t1, t2, prompt, brain_mask), or a folder of BraTS case folders.
    prompts
        Take the segmentation in a case folder as its prompt.
    bids
        BIDS dataset, every T1w of which is synthesized.
    participant_label
        Participants of the dataset to take, such as 01 02; by default all. Repeatable.
    derivatives
        BIDS derivative dataset that receives the syntheses of the dataset.
    bids_prompts
        BIDS derivatives with a prompt (dseg, mask or roi) per scan.
    bids_masks
        BIDS derivatives with a brain mask (desc-brain_mask) per scan.
    workers
        Threads that read, and as many that write; by default one per core.
    ray
        Run on this Ray cluster; auto finds the one that this machine belongs to.

    Raises
    ------
    UsageError
        Both a table and a dataset, or parts of a dataset without the others.
    """

    TITLE: ClassVar[str] = "Many cases"

    cases: Path | None = option(None, metavar="CSV|DIR")
    prompts: bool = option(True)
    bids: Path | None = option(None, metavar="DIR")
    participant_label: tuple[str, ...] = option((), metavar="LABEL")
    derivatives: Path | None = option(None, metavar="DIR")
    bids_prompts: Path | None = option(None, metavar="DIR")
    bids_masks: Path | None = option(None, metavar="DIR")
    workers: int | None = option(None, minimum=1)
    ray: str | None = option(None, metavar="auto|ADDRESS")

    def __post_init__(self) -> None:
        super().__post_init__()
        of_bids = (self.derivatives, self.bids_prompts, self.bids_masks)
        if self.cases is not None and (self.bids is not None or any(of_bids)):
            raise UsageError("cases and a BIDS dataset were given; choose one of them.")
        if self.participant_label and self.bids is None:
            raise UsageError("participants (participant_label) need a dataset (bids).")
        whole = self.bids is not None and self.derivatives is not None
        if not whole and (self.bids is not None or any(of_bids)):
            raise UsageError(
                "a dataset (bids) and the dataset to write (derivatives) go together; give both."
            )
        if not self.prompts and (self.cases is None or self.cases.is_file()):
            raise UsageError("prompts can be left out of a folder of cases only.")
