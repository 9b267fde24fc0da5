"""Warnings kept with the case they are about."""

from __future__ import annotations

import logging

import pytest

from tlp_runtime.remarks import Remarks

log = logging.getLogger("tlp_runtime.anything")


def test_warnings_go_to_the_case_and_others_where_they_went(
    caplog: pytest.LogCaptureFixture,
) -> None:
    remarks = Remarks()
    kept: list[str] = []
    with remarks.of(kept):
        log.warning("of the case")
    log.warning("of nothing")
    remarks.close()
    log.warning("of later")
    assert kept == ["of the case"]
    assert caplog.messages == ["of nothing", "of later"]


def test_who_closes_twice_takes_nothing_from_others(caplog: pytest.LogCaptureFixture) -> None:
    first, other = Remarks(), Remarks()
    first.close()
    first.close()
    kept: list[str] = []
    with other.of(kept):
        log.warning("of the case")
    other.close()
    assert kept == ["of the case"]
    assert not caplog.messages
