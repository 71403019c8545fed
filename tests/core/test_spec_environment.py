"""`{ env = "NAME" }`: what a variable may hold for each type of option, and that nobody gets to see it."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import Candidates, Context, Plugin, Query, Registry, SpecError, load_document
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.environment import UNREADABLE, Environment, parse

SECRET = "hunter2-0451"  # noqa: S105 - nobody's


@attrs.frozen
class Inner:
    """A table of options."""

    env: str = "a"
    depth: Annotated[int, at.Ge(0)] = 0


@attrs.frozen
class Remote:
    """A source with an option of every type."""

    reads = ()
    writes = ()
    on: bool = False
    count: Annotated[int, at.Ge(0), at.Le(100)] = 1
    rate: Annotated[float, at.Ge(0)] = 0.5
    url: str = ""
    mode: Literal["fast", "slow", 3] = "fast"
    wait: Annotated[dt.timedelta, at.Gt(dt.timedelta(0))] = dt.timedelta(seconds=1)
    since: dt.datetime | None = None
    folder: Path | None = None
    keys: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 1.0)
    weights: Mapping[str, float] = attrs.field(factory=dict)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    anything: Mapping[str, Any] = attrs.field(factory=dict)
    inner: Inner | None = None
    limit: Annotated[int, at.Ge(1)] | None = None
    even: Annotated[int, at.Predicate(lambda value: value % 2 == 0)] = 0

    def __attrs_post_init__(self) -> None:
        """Refuse some combinations, repeating what was given."""
        if self.url.startswith("bad"):
            raise ValueError(f"cannot use {self.url!r} ({self.url}) with count {self.count}, wait {self.wait}")

    async def fetch(self, query: Query, ctx: Context) -> Candidates:
        """No rows."""
        raise NotImplementedError


@attrs.frozen
class First:
    """A selector."""

    reads = ()

    def select(self, query: Query, candidates: Candidates, ctx: Context) -> Any:
        """No rows."""
        raise NotImplementedError


REGISTRY = Registry(
    [Plugin(namespace="net", components={"source": {"remote": Remote}, "selector": {"first": First}}, keys=[])]
)
SPEC = """\
schema = 1
[pipelines.p]
sources = ["remote"]
selector = "net.first"
%s
[components.remote]
use = "net.remote"
%s
"""


def loaded(line: str = "", pipeline: str = "", base: Path = Path("/base")) -> Any:
    """The plan of a spec with a line of settings for its source, and one for its pipeline."""
    return load_document(Document(SPEC % (pipeline, line), "net.toml", base), registry=REGISTRY)["p"].plan


def remote(line: str, **given: Any) -> Remote:
    """The source of a spec with a line of settings."""
    found: Remote = loaded(line, **given).nodes[0].component
    return found


def problems(line: str = "", pipeline: str = "") -> list[Any]:
    """The mistakes of a spec."""
    with pytest.raises(SpecError) as caught:
        loaded(line, pipeline)
    return caught.value.problems


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("on", "true", True),
        ("on", "false", False),
        ("count", "7", 7),
        ("count", "+7", 7),
        ("count", "1_0", 10),
        ("rate", "7", 7.0),
        ("rate", "0.25", 0.25),
        ("rate", "1e-3", 0.001),
        ("rate", "inf", float("inf")),
        ("url", "7", "7"),
        ("url", "", ""),
        ("url", " two words\n", " two words\n"),
        ("mode", "slow", "slow"),
        ("mode", "3", 3),
        ("wait", "48h", dt.timedelta(hours=48)),
        ("since", "2026-05-01T00:00:00Z", dt.datetime(2026, 5, 1, tzinfo=dt.UTC)),
        ("since", "2026-05-01 02:00:00+02:00", dt.datetime(2026, 5, 1, tzinfo=dt.UTC)),
        ("folder", "/data", Path("/data")),
        ("limit", "3", 3),
        ("even", "4", 4),
    ],
)
def test_text_is_read_as_the_options_type(monkeypatch: pytest.MonkeyPatch, option: str, text: str, value: Any) -> None:
    """A variable has only text; it is read as TOML would write the option's type, and as nothing else."""
    monkeypatch.setenv("GIVEN", text)
    found = getattr(remote(f'{option} = {{ env = "GIVEN" }}'), option)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "text", "wanted"),
    [
        ("on", "yes", "boolean"),
        ("on", "True", "boolean"),
        ("on", "1", "boolean"),
        ("on", "", "boolean"),
        ("count", "7.0", "integer"),
        ("count", " 7", "integer"),
        ("count", "7\n", "integer"),
        ("count", "007", "integer"),
        ("count", "0x10", "integer"),
        ("count", "seven", "integer"),
        ("count", "9" * 5000, "integer"),
        ("count", "\u0667", "integer"),
        ("rate", "1,5", "number"),
        ("rate", ".5", "number"),
        ("rate", "1 # x", "number"),
        ("rate", "infinity", "number"),
        ("mode", "Fast", "one of 'fast', 'slow', 3"),
        ("mode", "fas", "one of 'fast', 'slow', 3"),
        ("wait", "5", "duration such as '40ms', '5s' or '48h'"),
        ("wait", "5 s", "duration such as '40ms', '5s' or '48h'"),
        ("since", "2026-05-01T00:00:00", "date-time with a zone"),
        ("since", "2026-05-01", "date-time with a zone"),
        ("since", "2026-13-01T00:00:00Z", "date-time with a zone"),
        ("limit", "none", "integer"),
    ],
)
def test_text_of_another_type_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, option: str, text: str, wanted: str
) -> None:
    """A text that is not of the option's type is told by the variable's name alone."""
    monkeypatch.setenv("GIVEN", text)
    (problem,) = problems(f'{option} = {{ env = "GIVEN" }}')
    assert problem.code == "E109"
    assert problem.message == f"wanted {wanted}, found <value of GIVEN>"
    assert problem.hint == "set GIVEN to such a value; it is read as it stands"
    assert str(problem.location) == f"net.toml:8:{len(option) + 4}"


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("count", "101", "count: wanted at most 100, found <value of GIVEN>"),
        ("count", "-1", "count: wanted at least 0, found <value of GIVEN>"),
        ("rate", "-0.5", "rate: wanted at least 0, found <value of GIVEN>"),
        ("wait", "0s", "wait: wanted more than 0ms, found <value of GIVEN>"),
        ("limit", "0", "limit: wanted at least 1, found <value of GIVEN>"),
    ],
)
def test_values_out_of_range_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, option: str, text: str, message: str
) -> None:
    """A value out of range gives the range and the variable's name."""
    monkeypatch.setenv("GIVEN", text)
    (problem,) = problems(f'{option} = {{ env = "GIVEN" }}')
    assert (problem.code, problem.message) == ("E104", message)


def test_a_missing_variable_wants_a_value_or_a_default() -> None:
    """Without the variable, and without a default, the message says what is wanted and what to do."""
    (problem,) = problems('count = { env = "NOT_THERE" }')
    assert problem.render().splitlines() == [
        "net.toml:8:9: E109 the environment has no variable NOT_THERE; wanted integer",
        '     8 | count = { env = "NOT_THERE" }',
        '       |         ^^^^^^^^^^^^^^^^^^^^^ set it, or give a default: { env = "NOT_THERE", default = ... }',
        "       = at components.remote.count",
    ]


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        ("count = { env = 'NOT_THERE', default = 5 }", "count", 5),
        ("rate = { default = 5, env = 'NOT_THERE' }", "rate", 5.0),
        ("wait = { env = 'NOT_THERE', default = '2s' }", "wait", dt.timedelta(seconds=2)),
        ("folder = { env = 'NOT_THERE', default = 'here' }", "folder", Path("/base/here")),
        ("[components.remote.url]\nenv = 'NOT_THERE'\ndefault = 'x'", "url", "x"),
        ("mode.env = 'NOT_THERE'\nmode.default = 3", "mode", 3),
    ],
)
def test_defaults_stand_in(line: str, option: str, value: Any) -> None:
    """A default is a value of the file as any other: of the option's type, relative to the file."""
    assert getattr(remote(line), option) == value


@pytest.mark.parametrize("text", [None, "7"])
def test_defaults_are_checked_even_when_not_needed(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """A default of the wrong type or range is a mistake on every machine, whatever its environment."""
    if text is not None:
        monkeypatch.setenv("GIVEN", text)
    (problem,) = problems('count = { env = "GIVEN", default = "5" }')
    assert (problem.code, problem.message) == ("E102", "wanted integer, found the string '5'")
    assert (problem.path, str(problem.location)) == ("components.remote.count.default", "net.toml:8:36")
    (problem,) = problems('count = { env = "GIVEN", default = 500 }')
    assert (problem.code, problem.message) == ("E104", "count: wanted at most 100, found the integer 500")


@pytest.mark.parametrize(
    ("table", "message", "path"),
    [
        ('{ env = "GIVEN", defualt = 3 }', "unknown key 'defualt' beside env", "count.defualt"),
        ("{ env = 3 }", "env: wanted the name of an environment variable, found the integer 3", "count.env"),
        ('{ env = "" }', "env: wanted the name of an environment variable, found the string ''", "count.env"),
        ('{ env = "A=B" }', "env: wanted the name of an environment variable, found the string 'A=B'", "count.env"),
        (
            '{ env = { env = "X" } }',
            "env: wanted the name of an environment variable, found a table",
            "count.env",
        ),
    ],
)
def test_malformed_references(monkeypatch: pytest.MonkeyPatch, table: str, message: str, path: str) -> None:
    """A table with `env` that is not `{ env = NAME, default = ... }` is told what is wrong in it."""
    monkeypatch.setenv("GIVEN", "5")
    (problem,) = problems(f"count = {table}")
    assert (problem.code, problem.message, problem.path) == ("E109", message, f"components.remote.{path}")


def test_lists_and_tables_of_scalars_take_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single entries of lists, tables and nested classes can come from the environment."""
    monkeypatch.setenv("KEY", SECRET)
    monkeypatch.setenv("NUMBER", "7")
    found = remote(
        'keys = ["a", { env = "KEY" }]\npair = [{ env = "NUMBER" }, { env = "NUMBER" }]\n'
        'weights = { like = { env = "NUMBER" } }\ninner = { depth = { env = "NUMBER" }, env = { env = "KEY" } }'
    )
    assert found.keys == ("a", SECRET)
    assert (found.pair, type(found.pair[1])) == ((7, 7.0), float)
    assert found.weights == {"like": 7.0}
    assert found.inner == Inner(SECRET, 7)


def test_tables_that_want_a_key_env_are_not_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is a table keeps its key `env`, whatever the environment has."""
    monkeypatch.setenv("GIVEN", "7")
    found = remote(
        'labels = { env = "GIVEN" }\nanything = { env = "GIVEN", k = { env = "GIVEN" } }\ninner.env = "GIVEN"'
    )
    assert found.labels == {"env": "GIVEN"}
    assert found.anything == {"env": "GIVEN", "k": {"env": "GIVEN"}}
    assert found.inner == Inner("GIVEN")


def test_engine_and_pipeline_settings_take_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` policies, pipeline settings and stage budgets are options too."""
    monkeypatch.setenv("WAIT", "2s")
    monkeypatch.setenv("SIZE", "7")
    plan = loaded(
        'run = { timeout = { env = "WAIT" }, cache = { ttl = { env = "WAIT" }, max_items = { env = "SIZE" } } }',
        'result_size = { env = "SIZE" }\ndeadline = { env = "NOT_THERE", default = "9s" }\n'
        'stages.sources.timeout = { env = "WAIT" }',
    )
    assert (plan.result_size, plan.deadline, plan.nodes[0].timeout) == (7, 9.0, 2.0)
    assert plan.nodes[0].cache.max_items == 7


def test_paths_of_variables_start_at_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path in a variable is relative to where the program runs, as elsewhere; `~` is the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHERE", "data")
    monkeypatch.setenv("HOME", "/home/me")
    assert remote('folder = { env = "WHERE" }').folder == tmp_path / "data"
    monkeypatch.setenv("WHERE", "~/data")
    assert remote('folder = { env = "WHERE" }').folder == Path("/home/me/data")
    assert remote('folder = "~nobody_of_that_name/x"').folder == Path("/base/~nobody_of_that_name/x")


@pytest.mark.parametrize(
    ("line", "pipeline"),
    [
        ('count = { env = "SECRET" }', ""),
        ('mode = { env = "SECRET" }', ""),
        ('url = { env = "BAD" }\ncount = 3', ""),
        ('run.on_error = { env = "SECRET" }', ""),
        ('run.on_error = { env = "FALLBACK" }', ""),
        ('run.cache = { ttl = "1s", key = [{ env = "SECRET" }] }', ""),
        ("", 'show = [{ env = "SECRET" }]'),
        ("", 'inputs = { x = { env = "SECRET" } }'),
        ("", 'top_up = { env = "SECRET" }\nmin_results = 1'),
        ("", 'semantics = { env = "SECRET" }'),
    ],
)
def test_no_message_shows_a_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, line: str, pipeline: str
) -> None:
    """Whatever goes wrong with a value, it is in no message, hint, error or log."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("BAD", f"bad {SECRET}")
    monkeypatch.setenv("FALLBACK", f"fallback:{SECRET}")
    document = Document(SPEC % (pipeline, line), "net.toml")
    with pytest.raises(SpecError) as caught:
        load_document(document, registry=REGISTRY)
    text = repr(caught.value) + str(caught.value) + repr([each.as_dict() for each in caught.value.problems])
    assert "<value of " in text
    assert SECRET not in text + caplog.text
    assert any(SECRET in secret for secret in document.secrets())
    assert SECRET not in repr(document.environment)


def test_a_refusal_is_shown_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a component's own validation says is kept, but for what the environment gave, in every form."""
    monkeypatch.setenv("URL", "bad\n'x'")
    monkeypatch.setenv("COUNT", "7")
    monkeypatch.setenv("WAIT", "90s")
    (problem,) = problems('url = { env = "URL" }\ncount = { env = "COUNT" }\nwait = { env = "WAIT" }')
    assert (problem.code, problem.message) == (
        "E204",
        "remote (net.remote) refused its options: cannot use <value of URL> (<value of URL>) with count "
        "<value of COUNT>, wait <value of WAIT>",
    )


def test_other_messages_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short value is hidden near its option only: a 7 elsewhere is not the variable's."""
    monkeypatch.setenv("COUNT", "7")
    monkeypatch.setenv("ON", "true")
    (problem,) = problems('count = { env = "COUNT" }\non = { env = "ON" }', "result_size = -7")
    assert problem.message == "result_size: wanted at least 1, found the integer -7"
    (problem,) = problems("rate = true", 'result_size = { env = "COUNT" }')
    assert problem.message == "wanted number, found the boolean true"


def test_wiring_messages_hide_values_of_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that compares settings of two places shows neither if it is the environment's."""
    monkeypatch.setenv("DEADLINE", "1250ms")
    (problem,) = problems('run.timeout = "20s"', 'deadline = { env = "DEADLINE" }')
    assert problem.code == "E305"
    assert "1250" not in problem.message
    assert "<value of DEADLINE>" in problem.message


def test_secrets_are_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document knows the texts that were read; defaults and other variables are none."""
    monkeypatch.setenv("URL", SECRET)
    monkeypatch.setenv("COUNT", "7")
    text = SPEC % ("", 'url = { env = "URL" }\ncount = { env = "COUNT" }\nrate = { env = "NOT_THERE", default = 1 }')
    document = Document(text)
    assert document.secrets() == frozenset()
    load_document(document, registry=REGISTRY)
    assert document.secrets() == {SECRET, "7"}


def test_overrides_may_name_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--set a.b={env="NAME"}` reads the environment as the file would."""
    monkeypatch.setenv("COUNT", "7")
    document = Document(SPEC % ("", ""))
    app = load_document(document, registry=REGISTRY, sets=["components.remote.count={env='COUNT'}"])
    assert app["p"].plan.nodes[0].component.count == 7


def test_data_directories_may_come_from_variables(shop: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A resource's data directory that a variable names is read for its `dataset.toml` as well."""
    (tmp_path / "dataset.toml").write_text('[set]\n"components.top.size" = 1\n')
    monkeypatch.setenv("DATA", str(tmp_path))
    text = shop.changed(('path = "data"', 'path = { env = "DATA" }'))
    app = shop.load(text)
    assert app.resource("store").path == tmp_path
    assert app["shop"].plan.nodes[-1].component.size == 1
    (tmp_path / "dataset.toml").write_text("nothing = 1\n")
    assert "<value of DATA>/dataset.toml:1:1: E101 unknown key 'nothing'" in shop.mistakes(text)
    (tmp_path / "dataset.toml").write_text('[set]\n"components.top.size" = 1\n')
    app = shop.load(shop.changed(('path = "data"', f"path = {{ env = 'NOT_THERE', default = '{tmp_path}' }}")))
    assert app["shop"].plan.nodes[-1].component.size == 1


TYPES = [bool, int, float, str, dt.timedelta, dt.datetime, Path, Literal["a", "b", 1, True]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPES), st.text() | st.from_regex(r"[-+0-9._eE:TZ]{0,12}") | st.sampled_from(["true", "1", "a"]))
def test_any_text_is_read_or_refused(hint: Any, text: str) -> None:
    """Every text is either a value of the wanted type or unreadable; nothing raises."""
    value = parse(text, hint)
    if value is UNREADABLE:
        return
    if hint in {bool, int, float, str}:
        assert type(value) is hint
    assert hint is not str or value == text


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=4), st.text(), st.text())
def test_texts_are_hidden_wherever_they_stand(secret: str, before: str, after: str) -> None:
    """A secret text that is long enough to be one is in no message, whatever is around it."""
    environment = Environment({})
    environment.note("N", secret, secret, ("components", "a", "b"), free=True)
    message = environment.redacted(f"{before}{secret}{after}", ("pipelines", "p"))
    assert "<value of N>" in message
    assert secret not in message.replace("<value of N>", "\0")
