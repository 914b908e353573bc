"""The README's table is the quickstart report's, and what it links to exists."""

from __future__ import annotations

import re

from tests.processes import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_the_table_is_the_reports() -> None:
    report = (REPOSITORY / "reports/quickstart/README.md").read_text()
    block = re.search(
        r"<!-- from reports/quickstart/README.md -->\n(.*?)<!-- end -->", README, re.S
    )
    assert block is not None
    rows = [line for line in block.group(1).splitlines() if line.startswith("|")]
    assert len(rows) >= 6
    assert "\n".join(rows) in report, "copy the ranking table from the report again"


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link


def test_paths_in_the_map_exist() -> None:
    for path in re.findall(r"^\| `([\w/]+/)` \|", README, re.M):
        assert (REPOSITORY / path).is_dir(), path
