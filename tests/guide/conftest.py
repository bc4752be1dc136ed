"""A reader for each test, who must have followed every block of the section it is about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import pytest

from tests.guide.markdown import Block, Guide
from tests.guide.reader import Reader
from tests.guide.shell import NEEDED, Shell


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reads(*headings, only=[], after=[], needs=[]): the sections of the guide that the test "
        "is about; only those of their blocks that contain one of these texts; the sections that "
        "are followed first; and programs that are needed beside those that every guide needs.",
    )


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    require(NEEDED)
    return Shell(tmp_path_factory.mktemp("shell"))


@pytest.fixture
def reader(
    request: pytest.FixtureRequest, guide: Guide, shell: Shell, tmp_path: Path
) -> Iterator[Reader]:
    """A reader who has followed the sections before, and has the test's own before them."""
    mark = request.node.get_closest_marker("reads")
    require(mark.kwargs.get("needs", ()))
    with Reader(guide, blocks_read(guide, mark), shell, tmp_path) as reader:
        for heading in mark.kwargs.get("after", ()):
            for block in guide.section(heading):
                if block.is_set_apart:
                    reader.follow(block)
        yield reader


def require(programs: Iterable[str]) -> None:
    """Skip the test where a program is missing. CI has them all, and must."""
    if missing := [program for program in programs if not shutil.which(program)]:
        message = f"needs {', '.join(missing)}: a guide is followed with real programs"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test that has come to its end has left no block of its section out."""
    result = yield
    reader = pyfuncitem.funcargs.get("reader")
    if isinstance(reader, Reader):
        assert not reader.unread, f"not followed: {reader.guide.place(reader.unread[0])}"
    return result


def blocks_read(guide: Guide, mark: pytest.Mark) -> list[Block]:
    """The blocks of which a test with this mark makes use."""
    texts = mark.kwargs.get("only", [""])
    blocks = [block for heading in mark.args for block in guide.section(heading)]
    return [block for block in blocks if any(text in block.text for text in texts)]
