"""Every mistake a spec can hold, and the message a person gets for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from candidate_pipeline import SpecError, load
from candidate_pipeline.spec.problems import CODES

#: By name, whose first word is a code: what is changed in the spec of `conftest.py`, and all that is printed.
CASES: dict[str, Any] = {
    case["name"]: case
    for case in json.loads(Path(__file__).with_name("spec_messages.json").read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("name", CASES)
def test_message_is_whole(shop: Any, name: str) -> None:
    """One mistake gives one message: place, code, what was wanted and found, the line with a caret, what to do."""
    message = shop.mistakes(shop.changed(*CASES[name]["changes"]))
    assert message.splitlines() == CASES[name]["message"]
    assert f" {name.split(maxsplit=1)[0]} " in message


def test_every_code_of_a_spec_has_a_message_here() -> None:
    """No mistake goes untested; E107 belongs to `--set`, which has tests of its own."""
    tested = {name.split()[0] for name in CASES}
    assert tested == {code for code in CODES if code[0] == "E"} - {"E107"}


def test_the_spec_without_mistakes_loads(shop: Any) -> None:
    """The spec that the cases change is right as it stands."""
    app = shop.load(shop.spec)
    assert list(app) == ["shop"]


def test_all_mistakes_are_found_in_one_run(shop: Any) -> None:
    """Mistakes of spelling, type, range, kind and wiring that stand in one file are all reported at once, in order."""
    text = shop.changed(
        ("result_size = 2", "result_sise = 2"),
        ('deadline = "5s"', 'deadline = "1500ms"'),
        ('filters = ["shop.banned", "affordable"]', 'filters = ["shop.banned", "affordable", "shop.top"]'),
        (
            'hydrators = ["prices"]',
            'hydrators = ["shop.to_euro", "shop.to_dollar"]\npost_selection_hydrators = ["prices"]',
        ),
        ("markup = 0.5", 'markup = "much"'),
        ('show = ["shop.price"]', 'show = ["shop.prise"]'),
        ('use = "shop.affordable"', 'use = "shop.affordable"\nslack = 0\nmode = "lose"\nrun = { on_error = "never" }'),
        ("size = 2", "size = true"),
        ('path = "data"', 'path = "data"\nstore = "none"'),
    )
    text += '\n[components.extra]\nuse = "pets.cat"\n\n[resources.x]\nuse = "shop.index"\nstore = "nowhere"\n'
    found = [line.split(": ")[1][:4] for line in shop.mistakes(text).splitlines() if re.match(r"shop\.toml:\d", line)]
    assert found == [
        "E101",  # result_sise
        "E303",  # to_euro <-> to_dollar
        "E301",  # the safety filter before its hydrator
        "E301",  # affordable before its hydrator
        "E202",  # a selector among the filters
        "E301",  # cheapest before its hydrator
        "E205",  # show
        "E102",  # markup
        "E104",  # slack
        "E102",  # mode
        "E104",  # on_error
        "E305",  # timeout over deadline
        "E102",  # size
        "E101",  # an option of the store
        "E201",  # a broken plugin
        "E206",  # a resource that is not there
    ]


def test_a_missing_component_is_not_reported_twice(shop: Any) -> None:
    """What an unresolved component would have written is not reported as missing as well."""
    message = shop.mistakes(shop.changed(('use = "shop.prices"', 'use = "shop.price"')))
    assert message.count("E200") == 1
    assert message.endswith("\n1 problem found")


def test_one_mistake_in_two_pipelines_is_one_problem(shop: Any) -> None:
    """A component that two pipelines use is reported once where it is configured, and where each lists it otherwise."""
    text = shop.changed(
        ('use = "shop.cheapest"\n\n[components.top]', 'use = "shop.cheapest"\npower = 13\n\n[components.top]')
    )
    second = text[text.index("[pipelines.shop]") : text.index("[components.shelf]")].replace(
        "pipelines.shop", "pipelines.b"
    )
    assert shop.mistakes(text + "\n" + second).endswith("\n1 problem found")
    wiring = shop.spec + "\n" + second.replace('hydrators = ["prices"]\n', "").replace('show = ["shop.price"]', "")
    message = shop.mistakes(wiring)
    assert "at pipelines.b.filters[0]" in message
    assert "at pipelines.shop" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the file: No such file or directory"),
        (b"\xff", "the file is not UTF-8"),
        (b"#" * (4 * 2**20 + 1), "the file is larger than 4194304 bytes"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that is missing, not text or huge gives an E100 that names it."""
    file = tmp_path / "feed.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError, match=re.escape(f"{file}: E100 {message}")):
        load(file)


def test_directory_is_no_file(tmp_path: Path) -> None:
    """A folder in place of a file gives an E100."""
    with pytest.raises(SpecError, match="E100 cannot read the file: Is a directory"):
        load(tmp_path)


def test_byte_order_mark_is_passed_over(tmp_path: Path, shop: Any) -> None:
    """A file that an editor began with a byte order mark loads, and its places are right."""
    file = tmp_path / "feed.toml"
    file.write_bytes(b"\xef\xbb\xbf" + shop.changed(("schema = 1", "schema = 9")).encode())
    with pytest.raises(SpecError, match=r"feed\.toml:1:10: E106"):
        load(file, registry=shop.registry)


def test_problems_as_data(shop: Any) -> None:
    """Each problem has code, severity, message, hint, file, line, column and path, for editors."""
    with pytest.raises(SpecError) as caught:
        shop.load(shop.changed(("result_size", "result_sise")))
    (problem,) = caught.value.problems
    assert problem.as_dict() == {
        "code": "E101",
        "severity": "error",
        "message": "unknown key 'result_sise' in [pipelines.shop]",
        "hint": "did you mean 'result_size'?",
        "file": "shop.toml",
        "line": 4,
        "column": 1,
        "path": "pipelines.shop.result_sise",
    }


@pytest.mark.parametrize(
    "text",
    [
        "schema = 1",
        "schema = 1\npipelines = {}",
        "schema = 1\npipelines = 3",
        "schema = 1\npipelines = [1]",
        "schema = 1\n[pipelines]\na = 1",
        "schema = 1\n[[pipelines.a]]\nsources = []",
        "schema = 1\n[pipelines.a.sources]\nx = 1\n",
        "components = 1\nresources = 1\npipelines = 1\nschema = true",
        "",
    ],
)
def test_a_spec_without_a_usable_pipeline_says_so(shop: Any, text: str) -> None:
    """Empty, wrongly nested or missing tables give messages, never an application without pipelines."""
    assert "E10" in shop.mistakes(text)


def test_caret_stands_under_tabs_and_wide_lines(shop: Any) -> None:
    """A tab before the mistake is kept, so that the caret lines up in a terminal."""
    message = shop.mistakes(shop.changed(("result_size = 2", "\tresult_sise = 2")))
    assert "     4 | \tresult_sise = 2\n       | \t^^^^^^^^^^^ did you mean" in message
