"""docs/geometry.md says what the tests prove."""

from __future__ import annotations

from tests.cases_table import BEGIN, PAGE, page_with, table


def test_the_page_s_table_is_made_from_the_tests() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page
    assert table().count("\n| ") > 40
    assert page_with(table(), page) == page, "run: python -m tests.cases_table"
