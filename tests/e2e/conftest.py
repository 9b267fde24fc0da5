"""The browser that the viewer's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from tests.browser import browser
    from tlp_server.app import page_is_built

    assert page_is_built(), "the page is not built: make page"
    with browser() as chromium:
        yield chromium
