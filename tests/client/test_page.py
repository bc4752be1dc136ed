"""The programs in docs/client.md print what it says, against a live server."""

from __future__ import annotations

import re

import pytest

from tests.client.conftest import FreshTenant
from tests.conftest import ROOT


def test_the_programs_in_the_page_print_what_it_says(
    tenant: FreshTenant, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are one program in pieces: each may use what stands above it."""
    page = (ROOT / "docs" / "client.md").read_text()
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {"__name__": "client_page", "KEY": tenant.key}
    for language, block in blocks:
        if language == "python":
            exec(block.replace("http://localhost:8080", tenant.url), names)
        else:
            assert capsys.readouterr().out == block
    assert capsys.readouterr().out == ""
    assert len(blocks) >= 9
