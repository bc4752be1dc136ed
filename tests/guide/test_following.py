"""A guide that is not true is found out, and so is a block that nobody follows."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guide.accounting import assert_every_block_is_read
from tests.guide.answers import assert_answered, assert_same_log
from tests.guide.markdown import Guide
from tests.guide.reader import Reader
from tests.guide.shell import Output, Shell, Step, steps_of

PAGE = """\
# Page

Type `ebus check` and look at `tenants.yaml`.

    pip install .

## 1. First

- An item:
  ```yaml
  data_dir: "."
  tenants:
    - name: "main"
  ```
- Then `mv events.db
  main.db`.

## Second

```
# no heading
```
"""

LOOP = """\
# A title
for key in a b; do
  # one of them
  echo $key

  echo and
done

curl -s one
# {"a":1,
#  "b":2}
curl -s two \\
  three
# []
"""


@pytest.fixture
def page(tmp_path: Path) -> Guide:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return Guide(path)


def test_blocks_and_commands_are_found_wherever_they_stand(page: Guide) -> None:
    assert [(block.language, block.text, block.line) for block in page.blocks] == [
        ("command", "ebus check", 3),
        ("indented", "pip install .", 5),
        ("yaml", 'data_dir: "."\ntenants:\n  - name: "main"', 10),
        ("command", "mv events.db main.db", 15),
        ("", "# no heading", 20),
    ]
    assert [block.line for block in page.section("Page")] == [3, 5, 10, 15, 20]
    assert [block.line for block in page.section("First")] == [10, 15]


@pytest.mark.parametrize("fence", ["~~~", "```bash title", "  ```c++"])
def test_a_block_that_is_set_apart_in_another_way_is_not_overlooked(
    tmp_path: Path, fence: str
) -> None:
    (tmp_path / "page.md").write_text(f"{PAGE}\n{fence}\nrm -r data\n{fence}\n")
    with pytest.raises(AssertionError, match="line 24"):
        Guide(tmp_path / "page.md")


def test_a_block_that_no_test_reads_is_told_with_its_place(page: Guide) -> None:
    @pytest.mark.reads("First", only=["mv "])
    def test_something() -> None: ...

    @pytest.mark.reads("Second")
    def test_something_else() -> None: ...

    with pytest.raises(AssertionError) as told:
        assert_every_block_is_read(page, locals())
    places = [line for line in str(told.value).splitlines() if line.startswith("page.md")]
    assert [place.partition(":")[0] for place in places] == [
        "page.md, line 3",
        "page.md, line 5",
        "page.md, line 10",
    ]


def test_a_block_is_split_into_commands_and_their_answers() -> None:
    loop, one, two = steps_of(LOOP)
    assert loop.command.endswith("\n  echo and\ndone")
    assert (loop.answer, one.answer, two.answer) == ("", '{"a":1,\n "b":2}', "[]")
    assert two.words == ["curl", "-s", "two", "three"]


def test_a_block_ends_at_the_first_command_that_fails(shell: Shell, tmp_path: Path) -> None:
    block = "X=1\necho $X\n\nfalse\n\ntouch too-far"
    outputs = shell.run(block, cwd=tmp_path, notes=tmp_path / "notes")
    assert [(output.stdout, output.exit_status) for output in outputs] == [("1\n", 0), ("", 1)]
    assert not (tmp_path / "too-far").exists()


def output(answer: str, stdout: str, *, stderr: str = "", exit: int = 0, http: int = 0) -> Output:
    return Output(Step("command", answer), exit, stdout, stderr, (http,) if http else ())


def at_this_time(output: Output) -> Output:
    now = int(time.time())
    stdout = output.stdout.replace("NOW", str(now)).replace("EARLIER", str(now - 999))
    return replace(output, stdout=stdout)


METRICS = '{"tenant":"alice","total_events":1,"timestamp":1759632128}'
PROBLEM = '{"title":"Unauthorized","status":401,"detail":"Invalid API key","code":"key_invalid"}'


@pytest.mark.parametrize(
    "true",
    [
        output("", "anything", http=204),
        output(METRICS, '{"total_events":1,"tenant":"alice","timestamp":NOW}', http=200),
        output('Response: {"position":1,...}', '{"position":1,"type":"T"}', http=200),
        output('[{"position":1}, ...]', '[{"position":1},{"position":2}]', http=200),
        output("401 Unauthorized: Invalid API key", PROBLEM, http=401),
        output(PROBLEM, PROBLEM, http=401),
        output("1|T", "1|T\n"),
        output("Failed: so", "", stderr="Failed: so\n", exit=1),
    ],
)
def test_a_true_answer_agrees(true: Output) -> None:
    assert_answered(at_this_time(true))


@pytest.mark.parametrize(
    "untrue",
    [
        output("", "anything", http=404),
        output("", "", exit=1),
        output(METRICS, '{"tenant":"alice","total_events":1,"at":NOW}', http=200),
        output(METRICS, '{"tenant":"alice","total_events":1,"timestamp":NOW,"x":0}', http=200),
        output(METRICS, '{"tenant":"alice","total_events":1,"timestamp":EARLIER}', http=200),
        output(METRICS, '{"tenant":"alice","total_events":1,"timestamp":NOW.5}', http=200),
        output(METRICS, '{"tenant":"alice","total_events":2,"timestamp":NOW}', http=200),
        output(METRICS, '{"tenant":"alice","total_events":true,"timestamp":NOW}', http=200),
        output(METRICS, '{"tenant":"bob","total_events":1,"timestamp":NOW}', http=200),
        output('Response: {"position":1,...}', '{"position":2,"type":"T"}', http=200),
        output('Response: {"position":1,...}', '{"type":"T"}', http=200),
        output('{"position":1}', '{"position":1}', http=401),
        output('[{"position":1}]', '[{"position":1},{"position":2}]', http=200),
        output('[{"position":1}, ...]', "[]", http=200),
        output("[]", '[{"position":1}]', http=200),
        output("401 Unauthorized: Invalid API key", PROBLEM, http=403),
        output("401 Unauthorized: No such key", PROBLEM, http=401),
        output(PROBLEM, PROBLEM, http=200),
        output(PROBLEM.replace("key_invalid", "no_key"), PROBLEM, http=401),
        output("1|T", "1|T\n2|T\n"),
        output("1|T", "1|T\n", stderr="WARNING: it is late\n"),
        output("Failed: so", "Failed: so\n", exit=1),
        output("Failed: so", "", stderr="Failed: otherwise\n", exit=1),
        output("Failed: so", "", stderr="Failed: so\n", exit=2),
    ],
)
def test_an_answer_that_is_not_true_is_found_out(untrue: Output) -> None:
    with pytest.raises(AssertionError):
        assert_answered(at_this_time(untrue))


@pytest.mark.parametrize(
    "lines",
    [
        ["2026/01/01 12:00:00 Started"],
        ["2026/01/01 12:00:00 Started", "2026/01/01 12:00:00 Ready"],
        ["2026/01/01 12:00:00 Started", "2026/01/01 12:00:00 Listening", "Traceback"],
        [f"2026/01/01 12:00:00 {word}" for word in ("Started", "Listening", "Something else")],
    ],
)
def test_a_log_that_is_not_as_shown_is_found_out(lines: list[str]) -> None:
    shown = "2020/02/02 20:20:20 Started\n2020/02/02 20:20:20 Listening"
    assert_same_log(shown, [*shown.splitlines(), "2020/02/02 20:20:21 WARNING: it is late"])
    with pytest.raises(AssertionError):
        assert_same_log(shown, lines)


def test_what_nobody_knows_how_to_follow_is_told_with_its_place(
    page: Guide, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text("# Page\n\n```perl\nexit\n```\n")
    guide = Guide(tmp_path / "page.md")
    with Reader(guide, guide.blocks, shell, tmp_path) as reader:
        with pytest.raises(AssertionError, match="nothing is known") as told:
            reader.follow_all()
    assert told.value.__notes__ == ["page.md, line 3:\nexit"]
