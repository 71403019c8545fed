"""Specs that are made to harm, and mistakes that must be told once: what is printed stays small, plain and right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from candidate_pipeline import SpecError
from candidate_pipeline.build import build
from candidate_pipeline.registry import installed
from candidate_pipeline.spec.dataset import apply_sets
from candidate_pipeline.spec.document import MAX_BYTES, MAX_DEPTH, Document, dotted
from candidate_pipeline.spec.loader import load_spec
from candidate_pipeline.spec.model import FileSpec
from candidate_pipeline.spec.problems import Location, Problem, nearest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
EXTENDING = 'schema = 1\nextends = "pipelines.toml"\n'
HUGE = "0x" + "f" * 5000


def loaded(text: str, sets: Sequence[str] = ()) -> FileSpec:
    """A spec without mistakes."""
    spec = load_spec(Document(text, "feed.toml", ROOT), installed(), sets=sets)
    build(spec)
    return spec


def mistakes(text: str, sets: Sequence[str] = ()) -> list[Problem]:
    """The mistakes of a spec."""
    with pytest.raises(SpecError) as raised:
        loaded(text, sets)
    return raised.value.problems


def codes(text: str, sets: Sequence[str] = ()) -> list[str]:
    """The codes of the mistakes of a spec."""
    return [problem.code for problem in mistakes(text, sets)]


def test_many_mistakes_in_a_long_line_print_little() -> None:
    """Of a long line only what is around each mistake is shown, so that output does not grow with its square."""
    found = mistakes("schema = 1\npipelines = {" + ",".join(f"a{at} = 1" for at in range(2000)) + "}")
    assert len(found) == 2000
    for problem in found:
        first, line, carets, path = problem.render().splitlines()
        assert max(len(first), len(line), len(path)) < 300
        assert line[carets.index("^")] == "1"


def test_long_names_are_cut_in_messages() -> None:
    """A key of a million characters makes no message of a million characters, nor a path."""
    key = "k" * 1_000_000
    for problem in mistakes(f'schema = 1\n"{key}" = 1\n[components."{key}"]\nx = 1\n'):
        assert len(problem.render()) < 10_000
        assert len(problem.path) < 3000


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (f"schema = {HUGE}", 10),
        (f"{EXTENDING}components.age.run.when = {{ x = {HUGE} }}", 33),
        (f"{EXTENDING}components.diversity.decay = {'9' * 400}", 30),
    ],
)
def test_integers_beyond_64_bits_are_no_toml(text: str, column: int) -> None:
    """They are reported at their place; in options of any type, or where none is known."""
    (problem,) = mistakes(text)
    assert (problem.code, problem.location.column) == ("E100", column)
    assert "64 bits" in problem.message


def test_overrides_of_any_size_are_mistakes_not_crashes() -> None:
    """What is too deep or too large for TOML is text, or names nothing."""
    deep = "components.age.run.when." + ".".join("a" * MAX_DEPTH)
    assert codes(SHIPPED, [f"components.diversity.decay={HUGE}"]) == ["E102"]
    assert codes(SHIPPED, [f"components.age.max_age={'[' * 100}{']' * 100}"]) == ["E102"]
    assert codes(SHIPPED, [f"{deep}=1"]) == ["E107"]


def test_control_characters_never_reach_the_terminal() -> None:
    """Names, lines and paths with escapes, line ends and marks of direction are shown with those made visible."""
    text = EXTENDING + '[pipelines."a\\u001b[31mb\\nc"]\n[components]\n"\\u202eevil" = "\u202e\u00a0"\n'
    rendered = "\n".join(problem.render() for problem in mistakes(text))
    assert all(char.isprintable() or char == "\n" for char in rendered)
    assert '= at pipelines."a\\u001b[31mb\\nc"' in rendered
    assert '= "\ufffd\ufffd"' in rendered


def test_carets_stand_under_wide_characters() -> None:
    """A wide character takes two columns of a terminal, a combining one none."""
    line = 'a = { "日本" = 1, "e\u0301" = x }'
    place = Location("f.toml", 1, line.index("x") + 1, 1, line)
    assert Problem("E102", "m", place).render().splitlines()[2] == "       | " + " " * (line.index("x") + 1) + "^"
    place = Location("f.toml", 1, line.index("日") + 1, 2, line)
    assert Problem("E102", "m", place).render().splitlines()[2].endswith(" ^^^^")


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """No more is read than a spec may hold, whatever size a file says it has."""
    endless = Path("/dev/zero")
    if not endless.is_char_device():
        pytest.skip("the system has no /dev/zero")
    with pytest.raises(SpecError, match=f"larger than {MAX_BYTES} bytes"):
        Document.read(endless)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (EXTENDING + '[pipelines.for_you]\nfilters = ["...", "Fresh"]\n[components.Fresh]\nuse = "feed.age"\n', "E105"),
        (EXTENDING + '[pipelines.for_you]\nfilters = ["...", "a.b"]\n[components."a.b"]\nuse = "feed.age"\n', "E105"),
        (EXTENDING + '[pipelines.for_you]\nfilters = ["...", "fresh"]\n[components]\nfresh = 5\n', "E102"),
        (EXTENDING + "components = 5\n", "E102"),
        (SHIPPED.replace("[resources.index]", "[resources.Index]"), "E105"),
        (EXTENDING + "[resources]\ndata = 5\n", "E102"),
        (EXTENDING + '[components.thunder]\nstore = "Posts"\n[resources.Posts]\nuse = "thunder.store"\n', "E105"),
        (EXTENDING + 'resources = 5\n[components.thunder]\nstore = "posts"\n', "E102"),
        (
            EXTENDING
            + '[pipelines.x]\nextends = "for_you"\ntop_up = "Old"\nmin_results = 3\n[pipelines.Old]\nextends = "x"\n',
            "E105",
        ),
        ("schema = 1\npipelines = []\n", "E102"),
        ("schema = 1\npipelines = false\n", "E102"),
    ],
)
def test_a_malformed_table_is_one_mistake(text: str, code: str) -> None:
    """What refers to a table that is there, but wrongly named or no table, is not reported as well."""
    assert codes(text) == [code]


def test_keys_with_dots_are_overridden_in_quotes() -> None:
    """`--set`, `[set]` and the paths that messages show write names with dots as TOML does."""
    path = ("components", "retrieval", "run", "when", "feed.viewer_id")
    override = 'components.retrieval.run.when."feed.viewer_id"'
    assert dotted(path) == override
    assert loaded(SHIPPED, [f"{override}=7"]).document.get(path) == 7
    assert codes(SHIPPED, [f'{override}="x"']) == ["E102"]
    assert codes(SHIPPED, ['components."age.max_age=7d']) == ["E101"]
    document = Document(SHIPPED)
    assert apply_sets(document, ["components.'age'.max_age=7d"]) == []
    assert document.get(("components", "age", "max_age")) == "7d"


def test_a_base_of_another_version_is_not_hidden_by_the_near_one(tmp_path: Path) -> None:
    """Each file of a chain is of the version that is read; one that extends another need not say so."""
    base, near = tmp_path / "base.toml", tmp_path / "near.toml"
    base.write_text(SHIPPED.replace("schema = 1", "schema = 2"))
    near.write_text('schema = 1\nextends = "base.toml"\n')
    (problem,) = load_spec(Document.read(near), installed()).problems
    assert (problem.code, problem.location.name, problem.location.line) == ("E106", str(base), 2)
    base.write_text(SHIPPED)
    near.write_text('extends = "base.toml"\n')
    assert load_spec(Document.read(near), installed()).problems == ()


def test_a_folder_or_the_file_itself_is_no_suggestion(tmp_path: Path) -> None:
    """The nearest name of a base that is missing is that of another file."""
    (tmp_path / "base.toml").mkdir()
    near = tmp_path / "bases.toml"
    near.write_text('extends = "base.toml"\n')
    (problem, *_) = load_spec(Document.read(near), installed()).problems
    assert problem.hint == ""


def test_hints_are_true() -> None:
    """A table with many options does not "take no options", a pipeline is not told to contain itself."""
    found = mistakes(
        EXTENDING + '[components.retrieval.run]\nqqq = 1\n[pipelines.for_you]\nmin_results = 3\ntop_up = "for_yuo"\n'
    )
    assert [problem.hint for problem in found] == ["", "add a table [pipelines.for_yuo]"]


def test_a_namespace_alone_makes_no_name_near() -> None:
    """`feed.nope` is not nearly `feed.top_k`, `feed.aeg` is nearly `feed.age`."""
    names = ["feed.top_k", "feed.mutes", "feed.age", *(f"feed.x{at}" for at in range(9))]
    assert nearest("feed.nope", names) == ""
    assert nearest("feed.aeg", names) == "did you mean 'feed.age'?"
    assert nearest("age", names) == "did you mean 'feed.age'?"


def test_a_missing_inner_pipeline_hides_no_mistake_of_the_outer_one() -> None:
    """Wiring is checked beside a pipeline that is not there, or whose own wiring is wrong."""
    outer = '[pipelines.outer]\nextends = "for_you"\nmin_results = 3\nstages.sourcs.timeout = "1s"\ntop_up = "inner"\n'
    inner = '[pipelines.inner]\nextends = "for_you"\nshow = ["feed.view_count"]\n'
    assert codes(EXTENDING + outer) == ["E101", "E310"]
    assert codes(EXTENDING + outer + inner) == ["E101", "E300"]
