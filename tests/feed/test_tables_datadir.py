"""Data directories: `dataset.toml`, the clock, putting a directory in its place, and the `data` commands."""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path

import attrs
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed import commands_data
from candidate_pipeline_feed.atomic import placed_directory
from candidate_pipeline_feed.datadir import (
    DataDirectory,
    DatasetInfo,
    Value,
    bundled_world,
    clock,
    dataset_toml,
    read_dataset_info,
)
from candidate_pipeline_feed.tables import Edges, Events, Items, Tables, Users

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
WORDS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | TEXTS


def _tables() -> Tables:
    return Tables(
        Users.build(user_id=[1, 2], name=["a", "b"]),
        Items.build(item_id=[10], author_id=[1], created_at=[0], text=["x"]),
        Edges.build(src=[2], dst=[1], kind=["follow"]),
        Events.build(user_id=[2], item_id=[10], time=[5000], action=["favorite"]),
    )


@settings(max_examples=60, deadline=None)
@given(
    name=TEXTS.filter(str.strip),
    now=st.none() | st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC)),
    defaults=st.dictionaries(WORDS, SCALARS, max_size=3),
    overrides=st.dictionaries(
        st.lists(WORDS, min_size=2, max_size=4).map(".".join), SCALARS | st.lists(SCALARS, max_size=3), max_size=3
    ),
)
def test_dataset_toml_comes_back_as_it_was(
    name: str,
    now: dt.datetime | None,
    defaults: dict[str, bool | int | float | str],
    overrides: dict[str, Value],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Expect whatever may be written to read back equal, quotes, newlines and emoji included."""
    info = DatasetInfo(name, now, defaults, overrides)
    path = tmp_path_factory.mktemp("info") / "dataset.toml"
    path.write_text(dataset_toml(info), encoding="utf-8", newline="")
    assert read_dataset_info(path) == info


def test_dataset_toml_reads_as_it_should() -> None:
    """Expect a native TOML time, `default_<input>` keys, and quoted dotted keys under [set]."""
    text = dataset_toml(DatasetInfo("d", NOON, {"viewer": 42}, {"components.age.max_age": "7d"}))
    assert text == (
        'name = "d"\nnow = 2026-05-01T12:00:00Z\ndefault_viewer = 42\n\n[set]\n"components.age.max_age" = "7d"\n'
    )
    assert tomllib.loads(text)["now"] == NOON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("now = 2026-05-01T12:00:00Z", "name: wanted a text"),
        ("name = 7", "name: wanted a text .*, found 7"),
        ('name = "d"\nnow = 2026-05-01T12:00:00', "now: wanted a date and time with a zone"),
        ('name = "d"\nnow = "yesterday"', "now: wanted a date and time with a zone .*, found yesterday"),
        ('name = "d"\nviewer = 7', "viewer: not a key; there are name, now, default_<request parameter>"),
        ('name = "d"\ndefault_viewer = [1]', r"default_viewer: wanted a number, a text, true or false, found \[1\]"),
        ('name = "d"\n[set]\ncomponents.age = 7', "put the dotted key in quotes"),
        ('name = "d"\n[set]\nage = 7', 'set.age: wanted a dotted key such as "components.age.max_age"'),
        ('name = "d"\nset = 7', "set: wanted a table of dotted settings"),
        ("name = ", "not TOML"),
    ],
)
def test_mistakes_in_dataset_toml_are_told(text: str, message: str, tmp_path: Path) -> None:
    """Expect each mistake to be told with the key, what was wanted and what was found."""
    path = tmp_path / "dataset.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_dataset_info(path)


def test_a_missing_dataset_toml_is_told(tmp_path: Path) -> None:
    """Expect a directory without the file to say what the least is that it needs."""
    with pytest.raises(DataError, match='no such file; the least a data directory needs is one with name = "…"'):
        DataDirectory(tmp_path).info()


def test_a_directory_is_written_whole_and_read_back(tmp_path: Path) -> None:
    """Expect tables and info to come back, and an info that cannot be written to leave no tables behind."""
    data = DataDirectory(tmp_path / "d")
    info = DatasetInfo("d", NOON, {"viewer": 2})
    with pytest.raises(DataError, match="cannot be written"):
        data.write(_tables(), DatasetInfo("d", NOON.replace(tzinfo=None)))
    assert not data.path.exists()
    data.write(_tables(), info)
    assert data.info() == info
    assert data.tables().equals(_tables())
    assert data.table("edges") == data.path / "edges.parquet"
    assert (data.ranker_model, data.retrieval_model) == (data.path / "models/ranker", data.path / "models/retrieval")


def test_the_clock_is_a_second_after_the_last_event() -> None:
    """Expect the named clock first, else a second after the last event, else a question for one."""
    assert clock(DatasetInfo("d", NOON), _tables()) == NOON
    assert clock(DatasetInfo("d"), _tables()) == dt.datetime(1970, 1, 1, 0, 0, 6, tzinfo=dt.UTC)
    nothing = attrs.evolve(_tables(), events=Events.build(user_id=[], item_id=[], time=[], action=[]))
    with pytest.raises(DataError, match=r"put now = <date and time> in dataset\.toml"):
        clock(DatasetInfo("d"), nothing)


def _listing(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(trouble: type[BaseException], tmp_path: Path) -> None:
    """Expect an error or an interrupt half-way to leave the old directory as it was, and no litter beside it."""
    out = tmp_path / "d"
    DataDirectory(out).write(_tables(), DatasetInfo("old", NOON))
    before = _listing(tmp_path)

    def fail() -> None:
        with placed_directory(out, force=True) as made:
            (made / "dataset.toml").write_text("half", encoding="utf-8")
            raise trouble

    with pytest.raises(trouble):
        fail()
    assert _listing(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_directory_is_replaced_only_when_asked_and_only_if_it_is_one_of_ours(tmp_path: Path) -> None:
    """Expect a taken place to be refused without force, and anything but a data directory with it too."""
    out = tmp_path / "d"
    DataDirectory(out).write(_tables(), DatasetInfo("old", NOON))
    with pytest.raises(DataError, match="--force replaces it, models included"), placed_directory(out):
        pass
    with placed_directory(out, force=True) as made:
        (made / "dataset.toml").write_text('name = "new"', encoding="utf-8")
    assert list(_listing(out)) == ["dataset.toml"]
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("dear", encoding="utf-8")
    with (
        pytest.raises(DataError, match="holds something that is not a data directory"),
        placed_directory(letters, True),
    ):
        pass
    with pytest.raises(DataError, match="found something else"), placed_directory(letters / "dear.txt", True):
        pass


@pytest.fixture
def program() -> typer.Typer:
    """The three commands as a program."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(commands_data.fetch)
    app.command()(commands_data.world)
    app.command()(commands_data.check)
    return app


def test_a_world_is_made_and_checked(program: typer.Typer, tmp_path: Path) -> None:
    """Expect `world` to write a directory that `check` finds in order, and to refuse to write over it."""
    out = tmp_path / "w"
    size = ["--users", "60", "--posts", "120", "--impressions", "10"]
    made = CliRunner().invoke(program, ["world", "--out", str(out), *size])
    assert made.exit_code == 0, made.output
    assert "its clock says 2026-10-09 18:00 UTC" in made.output
    checked = CliRunner().invoke(program, ["check", str(out)])
    assert checked.exit_code == 0, checked.output
    assert "default viewer 42" in checked.output
    assert "everything is as it should be" in checked.output
    again = CliRunner().invoke(program, ["world", "--out", str(out), *size])
    assert isinstance(again.exception, DataError)
    assert "there is a data directory already" in str(again.exception)


def test_check_tells_everything_at_once(program: typer.Typer, tmp_path: Path) -> None:
    """Expect one error with what is wrong with the tables and with dataset.toml."""
    data = DataDirectory(tmp_path / "d")
    data.write(_tables(), DatasetInfo("d", NOON, {"viewer": 77}))
    unknown = CliRunner().invoke(program, ["check", str(data.path)])
    assert "default_viewer: the users table has no user 77" in str(unknown.exception)
    data.table("users").unlink()
    data.dataset_file.write_text("name = 1", encoding="utf-8")
    broken = CliRunner().invoke(program, ["check", str(data.path)])
    assert isinstance(broken.exception, DataError)
    assert "users.parquet: no such file" in str(broken.exception)
    assert "name: wanted a text" in str(broken.exception)


def test_an_unknown_data_set_is_told(program: typer.Typer, tmp_path: Path) -> None:
    """Expect a name that is not a data set to be answered with those there are."""
    result = CliRunner().invoke(program, ["fetch", "ml-20m", "--out", str(tmp_path / "x")])
    assert "ml-20m: no such data set; there is ml-100k" in str(result.exception)


def test_the_bundled_world_is_in_order(program: typer.Typer) -> None:
    """Expect the world that ships to pass the check and to stay small."""
    checked = CliRunner().invoke(program, ["check", str(bundled_world())])
    assert checked.exit_code == 0, checked.output
    tables = sum(path.stat().st_size for path in bundled_world().glob("*.parquet"))
    assert tables < 2_500_000
