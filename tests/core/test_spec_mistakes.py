"""One file with every kind of planted mistake, over the core and the shipped plugins: one right message for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from candidate_pipeline import SpecError, load
from candidate_pipeline.spec.problems import Problem

BASE = """\
schema = 1

[pipelines.for_you]
result_size = 35
deadline = "30s"
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer", "feed.graph", "feed.history"]
sources = ["thunder", "retrieval"]
hydrators = ["feed.items", "feed.authors", "feed.in_network"]
filters = ["feed.drop_duplicates", "age", "feed.own_posts", "feed.blocked_authors"]
scorers = ["ranker", "weighted", "diversity"]
selector = "top"
show = ["feed.text", "feed.author_nmae"]

[components.thunder]
use = "thunder.source"
max_results = "1200"

[components.retrieval]
use = "phoenix.retrieval"
run = { timeout = "20s", on_error = "skip" }

[components.age]
use = "feed.age"

[components.ranker]
use = "phoenix.ranker"

[components.weighted]
use = "feed.weighted"

[components.diversity]
use = "feed.author_diversity"
decay = 1.5

[components.top]
use = "feed.top_k"
size = 50

[resources.data]
use = "feed.tables"

[resources.posts]
use = "thunder.store"

[resources.retrieval_model]
use = "phoenix.retrieval_model"

[resources.index]
use = "phoenix.index"

[resources.ranker_model]
use = "phoenix.ranker_model"
backend = "kv_cach"
"""

FEED = """\
extends = "base.toml"
version = 3

[pipelines.for_you]
filters = ["...", "-agee", "feed.already_sen", "phoenix.ranker"]
deadline = "30"

[pipelines.mine]
extends = "for_yuo"

[pipelines.late]
extends = "for_you"
result_sise = 10
hydrators = ["-feed.items"]
post_selection_hydrators = ["..."]
result_size = { env = "FEED_RESULT_SIZE" }
semantics = { env = "FEED_SEMANTICS" }

[components.thunder]
store = "post"

[components.retrieval]
max_age = 3
run.retries = 3

[components.weighted]
preset = { env = "FEED_NO_PRESET" }
weights = { like = "1" }

[components.diversity]
floor = { env = "FEED_FLOOR" }

[components.top]
size = { env = "FEED_TOP", defualt = 3 }

[components.Extra]
use = "feed.age"

[components.unused]
use = "fed.age"

[components.retweets]
max_age = "7d"

[components.nested]
use = "pipeline"
pipeline = "for_me"

[resources.posts]
retention = -5
data = "index"

[resources.index]
run = { timeout = "1s" }

[resources.ranker_model]
precision = 16
batching = { max_rows = "many" }

[pipelines.short]
inputs = { viewer = "feed.viewer_id", now = "feed.locale" }
query_hydrators = ["feed.graph"]
sources = ["plain", "plain"]
hydrators = ["feed.in_network"]
filters = ["feed.blocked_authors"]
selector = "feed.top_k"
deadline = "1s"

[components.plain]
use = "thunder.source"
run = { timeout = "5s", on_error = "fallback:retrieved" }

[pipelines.empty]
sources = []
selector = ["feed.top_k"]
top_up = "for_you"

[pipelines.wiring]
inputs = { viewer = "feed.viewer_id" }
query_hydrators = ["feed.viewer", "feed.graph", "feed.history"]
sources = ["recent"]
hydrators = ["feed.items", "feed.in_network"]
filters = ["feed.blocked_authors"]
selector = "feed.top_k"
stages.filter.timeout = "1s"

[pipelines.twice]
extends = "wiring"
hydrators = ["...", "again"]
selector = "feed.first_k"

[components.recent]
use = "thunder.source"

[components.again]
use = "feed.in_network"
run = { cache = { ttl = "1m", key = ["feed.folows"] } }
"""

#: What the environment holds; there is no FEED_NO_PRESET and no FEED_TOP.
VARIABLES = {"FEED_RESULT_SIZE": "many", "FEED_SEMANTICS": "Upstreem", "FEED_FLOOR": "7.25"}

#: Each planted mistake: place, code, the text above the carets, what was wanted and found, and what to do.
EXPECTED = [
    (
        "base.toml:13:22",
        "E205",
        '"feed.author_nmae"',
        "no column named 'feed.author_nmae'",
        "did you mean 'feed.author_name'?",
    ),
    ("base.toml:17:15", "E102", '"1200"', "wanted integer, found the string '1200'", ""),
    ("base.toml:34:9", "E104", "1.5", "decay: wanted at most 1, found the float 1.5", ""),
    (
        "feed.toml:2:1",
        "E101",
        "version",
        "unknown key 'version'",
        "one of: components, extends, pipelines, resources, schema",
    ),
    ("feed.toml:5:19", "E110", '"-agee"', "the base has no entry 'agee'", "did you mean 'age'?"),
    (
        "feed.toml:5:28",
        "E200",
        '"feed.already_sen"',
        "no filter named 'feed.already_sen'",
        "did you mean 'feed.already_seen'?",
    ),
    ("feed.toml:5:48", "E202", '"phoenix.ranker"', "'phoenix.ranker' is a scorer, wanted a filter", ""),
    ("feed.toml:6:12", "E102", '"30"', "wanted duration such as '40ms', '5s' or '48h', found the string '30'", ""),
    ("feed.toml:9:11", "E108", '"for_yuo"', "extends: no pipeline 'for_yuo'", "did you mean 'for_you'?"),
    (
        "feed.toml:13:1",
        "E101",
        "result_sise",
        "unknown key 'result_sise' in [pipelines.late]",
        "did you mean 'result_size'?",
    ),
    (
        "feed.toml:14:14",
        "E110",
        '"-feed.items"',
        "'-feed.items' leaves an entry of the base out, but the list takes none",
        "add the entry '...'",
    ),
    (
        "feed.toml:15:29",
        "E110",
        '"..."',
        "'...' stands for post_selection_hydrators of 'for_you', which has none",
        "leave the entry out",
    ),
    (
        "feed.toml:16:15",
        "E109",
        '{ env = "FEED_RESULT_SIZE" }',
        "wanted integer, found <value of FEED_RESULT_SIZE>",
        "set FEED_RESULT_SIZE to such a value; it is read as it stands",
    ),
    (
        "feed.toml:17:13",
        "E109",
        '{ env = "FEED_SEMANTICS" }',
        "wanted one of 'strict', 'upstream', found <value of FEED_SEMANTICS>",
        "set FEED_SEMANTICS to such a value; it is read as it stands",
    ),
    ("feed.toml:20:9", "E206", '"post"', "no resource 'post'", "did you mean 'posts'?"),
    ("feed.toml:23:11", "E102", "3", "wanted duration such as '40ms', '5s' or '48h', found the integer 3", ""),
    (
        "feed.toml:24:15",
        "E311",
        "3",
        "retrieval: retries has no effect: it is for side effects, retrieval is a source",
        "remove the key",
    ),
    (
        "feed.toml:27:10",
        "E109",
        '{ env = "FEED_NO_PRESET" }',
        "the environment has no variable FEED_NO_PRESET; wanted string",
        'set it, or give a default: { env = "FEED_NO_PRESET", default = ... }',
    ),
    ("feed.toml:28:20", "E102", '"1"', "wanted number, found the string '1'", ""),
    ("feed.toml:31:9", "E104", '{ env = "FEED_FLOOR" }', "floor: wanted at most 1, found <value of FEED_FLOOR>", ""),
    (
        "feed.toml:34:28",
        "E109",
        "defualt",
        "unknown key 'defualt' beside env",
        'wanted { env = "NAME", default = ... }',
    ),
    (
        "feed.toml:36:13",
        "E105",
        "Extra",
        "'Extra' is not a name for [components.*]",
        "a name is lower-case letters, digits and underscores; dots mark registered names",
    ),
    ("feed.toml:40:7", "E200", '"fed.age"', "no component named 'fed.age'", "did you mean 'feed.age'?"),
    ("feed.toml:42:13", "E103", "retweets", "[components.retweets] needs the key 'use'", ""),
    ("feed.toml:47:12", "E310", '"for_me"', "no pipeline 'for_me'", "did you mean 'for_you'?"),
    ("feed.toml:50:13", "E102", "-5", "wanted duration such as '40ms', '5s' or '48h', found the integer -5", ""),
    (
        "feed.toml:51:8",
        "E206",
        '"index"',
        "wanted a resource of class FeedTables, found 'index' of class PostIndex",
        "one of: data",
    ),
    ("feed.toml:54:1", "E101", "run", "a resource takes no 'run'", ""),
    ("feed.toml:57:13", "E102", "16", "wanted one of 'float32', 'bfloat16', 'int8', found the integer 16", ""),
    ("feed.toml:58:14", "E101", "max_rows", "unknown key 'max_rows' for Batching", "did you mean 'max_wait'?"),
    (
        "feed.toml:61:39",
        "E105",
        "now",
        "'now' is not a name for an input: every request, or the command `run`, has an option of that name",
        "",
    ),
    ("feed.toml:61:45", "E205", '"feed.locale"', "no query feature named 'feed.locale'", ""),
    (
        "feed.toml:63:21",
        "E308",
        '"plain"',
        "'plain' stands twice in sources",
        "give one of them a name of its own: [components.<name>] with use = ...",
    ),
    (
        "feed.toml:71:19",
        "E304",
        '"5s"',
        "plain.fetch is a plain def, which cannot be interrupted",
        "make it async def, or set blocking = True on its class",
    ),
    (
        "feed.toml:71:19",
        "E305",
        '"5s"',
        "plain: the timeout 5s is longer than the deadline 1s",
        "shorten the one or lengthen the other",
    ),
    ("feed.toml:71:36", "E200", '"fallback:retrieved"', "no source named 'retrieved'", "did you mean 'retrieval'?"),
    ("feed.toml:74:11", "E104", "[]", "sources: wanted at least one, found an empty list", ""),
    ("feed.toml:75:12", "E102", '["feed.top_k"]', "selector: wanted a string, found a list of 1", ""),
    ("feed.toml:76:10", "E103", '"for_you"', "top_up needs the key 'min_results' beside it", "add min_results"),
    (
        "feed.toml:84:12",
        "E300",
        '"feed.top_k"',
        "feed.top_k reads the column core.score, which nobody writes",
        "add a component that writes it",
    ),
    ("feed.toml:85:8", "E101", "filter", "stages: no stage 'filter'", "did you mean 'filters'?"),
    (
        "feed.toml:89:21",
        "E302",
        '"again"',
        "feed.in_network and again both write feed.in_network, feed.mutual_follow at the same time",
        "remove one, or let the later one read what the earlier one writes",
    ),
    ("feed.toml:90:12", "E200", '"feed.first_k"', "no selector named 'feed.first_k'", "one of: feed.top_k"),
    (
        "feed.toml:97:38",
        "E205",
        '"feed.folows"',
        "again: 'feed.folows' is not among what it reads",
        "did you mean 'feed.follows'?",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    """What loading the file reports."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "base.toml").write_text(BASE)
    (folder / "feed.toml").write_text(FEED)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        with pytest.raises(SpecError) as caught:
            load(folder / "feed.toml")
    assert str(caught.value).endswith(f"\n{len(EXPECTED)} problems found")
    return caught.value.problems


def told(problem: Problem) -> tuple[str, str, str, str, str]:
    """A problem as `EXPECTED` has it."""
    place = problem.location
    above = place.text[place.column - 1 : place.column - 1 + place.length]
    at = f"{Path(place.name).name}:{place.line}:{place.column}"
    return at, problem.code, above, problem.message, problem.hint


def test_every_planted_mistake_has_one_right_message(found: list[Problem]) -> None:
    """One run tells all of them, in the order of the text, and nothing besides."""
    assert [told(problem) for problem in found] == EXPECTED
    assert len(EXPECTED) >= 40
    assert len({code for _, code, *_ in EXPECTED}) >= 15


def test_carets_stand_under_what_is_wrong(found: list[Problem]) -> None:
    """As printed, the line is the file's and the carets are as wide as what stands above them."""
    lines = {"base.toml": BASE.splitlines(), "feed.toml": FEED.splitlines()}
    for problem, (at, code, above, message, hint) in zip(found, EXPECTED, strict=True):
        name, line, column = at.split(":")
        first, shown, carets, *_ = problem.render().splitlines()
        assert first.endswith(f"{at}: {code} {message}")
        assert shown == f"{line:>6} | {lines[name][int(line) - 1]}"
        assert carets == f"       | {' ' * (int(column) - 1)}{'^' * len(above)} {hint}".rstrip()


def test_nothing_of_the_environment_is_shown(found: list[Problem]) -> None:
    """The values of variables are in no message."""
    text = "".join(problem.render() for problem in found)
    assert not [value for value in VARIABLES.values() if f"{value} " in text or f"{value}'" in text]
    assert "7.25" not in text
    assert "Upstreem" not in text
