"""Utilities: declared ones, their file, and what becomes of files that are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import RUNNER_DISCRETE
from candidate_pipeline_stakeholder import utilities_file
from candidate_pipeline_stakeholder.moments import Moments
from candidate_pipeline_stakeholder.utilities import (
    DECLARED,
    DECLARED_ACTIONS,
    MAX_WEIGHT,
    NEGATIVE_ACTIONS,
    POSITIVE,
    Utilities,
    declared,
    label_weights,
)

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = st.floats(-MAX_WEIGHT, MAX_WEIGHT)
FEATURES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)


@st.composite
def utilities(draw: st.DrawFn) -> Utilities:
    """Any utilities that may be written."""
    features = draw(st.lists(FEATURES, min_size=1, max_size=5, unique=True))
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    k = len(features)
    weights = draw(st.lists(st.lists(NUMBERS, min_size=k, max_size=k), min_size=len(names), max_size=len(names)))
    pool = None
    if draw(st.booleans()):
        rows = np.array(draw(st.lists(st.lists(st.floats(0, 1), min_size=k, max_size=k), min_size=1, max_size=4)))
        pool = Moments.of(rows.mean(axis=0), np.cov(rows.T, bias=True).reshape(k, k), len(rows))
    fits = {name: {"pairs": 3, "words": ["one", "two"], "errors": [1.5, 2.0]} for name in names[:1]}
    return Utilities(features, names, np.array(weights), pool, fits)


def cosine(a: Any, b: Any) -> float:
    """Of two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@QUICK
@given(made=utilities())
def test_file_round_trip(made: Utilities, tmp_path: Path) -> None:
    """What was written is read back to the last bit: features, names, weights, moments and fits."""
    path = tmp_path / "stakeholders.toml"
    made.write(path)
    found = Utilities.read(path)
    assert (found.features, found.names) == (made.features, made.names)
    assert np.array_equal(found.weights, made.weights)
    assert dict(found.fits) == dict(made.fits)
    assert (found.pool is None) == (made.pool is None)
    if found.pool is not None and made.pool is not None:
        assert np.array_equal(found.pool.mean, made.pool.mean)
        assert np.array_equal(found.pool.covariance, made.pool.covariance)
        assert found.pool.rows == made.pool.rows


def test_file_of_a_hand(tmp_path: Path) -> None:
    """The least file names weights alone: features come in the order of appearance, whole numbers are numbers."""
    path = tmp_path / "mine.toml"
    path.write_text("schema = 1\n[stakeholders.me.weights]\nreply = 2\n[stakeholders.you.weights]\nclick = -0.5\n")
    found = Utilities.read(path)
    assert found.features == ("reply", "click")
    assert found.as_mapping() == {"me": {"reply": 2.0}, "you": {"click": -0.5}}


def test_what_a_fit_says_survives_without_none(tmp_path: Path) -> None:
    """A fit's unknown values are left out of tables, and are NaN in lists, as TOML has no null."""
    made = Utilities.of({"me": {"a": 1.0}}, fits={"me": {"prior": None, "errors": [None, 1.0], "rank": np.int64(1)}})
    made.write(tmp_path / "u.toml")
    found = Utilities.read(tmp_path / "u.toml").fits["me"]
    assert found["rank"] == 1
    assert "prior" not in found
    assert math.isnan(found["errors"][0])


def test_fit_that_is_no_plain_data(tmp_path: Path) -> None:
    """What TOML cannot hold is refused by its key, and no file is left."""
    made = Utilities.of({"me": {"a": 1.0}}, fits={"me": {"x": {"y": object()}}})
    with pytest.raises(DataError, match=r"fits\.me\.x\.y: wanted plain data .* found object"):
        made.write(tmp_path / "u.toml")
    assert list(tmp_path.iterdir()) == []


GOOD = """\
schema = 1
features = ["favorite", "reply"]
[stakeholders.user.weights]
favorite = 1.0
reply = 0.5
[pool]
rows = 10
mean = [0.1, 0.2]
covariance = [[0.01, 0.0], [0.0, 0.02]]
"""


def _swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "no schema": (_swap("schema = 1\n", ""), r"schema: wanted 1, the version of the format, found None"),
    "true is not 1": (_swap("schema = 1", "schema = true"), r"schema: wanted 1, .* found True"),
    "future": (_swap("schema = 1", "schema = 2"), r"schema: wanted 1, .* found 2"),
    "unknown key": (_swap("schema = 1", "schema = 1\nmode = 3"), r"mode: not a key; there are schema, features"),
    "unknown in stakeholder": (
        _swap("[pool]", "[stakeholders.user.notes]\n[pool]"),
        r"stakeholders\.user\.notes: not a key; there are weights, fit",
    ),
    "text for a weight": (_swap("reply = 0.5", 'reply = "0.5"'), r"weights\.reply: wanted a number .* found '0.5'"),
    "true for a weight": (_swap("reply = 0.5", "reply = true"), r"weights\.reply: wanted a number .* found True"),
    "nan": (_swap("reply = 0.5", "reply = nan"), r"weights\.reply: wanted a number from -1e\+09 .* found nan"),
    "inf": (_swap("reply = 0.5", "reply = inf"), r"weights\.reply: wanted a number .* found inf"),
    "huge": (_swap("reply = 0.5", "reply = 1e12"), r"weights\.reply: wanted a number from -1e\+09 to 1e\+09"),
    "huge integer": (_swap("reply = 0.5", f"reply = 1{'0' * 400}"), r"weights\.reply: wanted a number"),
    "unknown feature": (_swap("reply = 0.5", "replie = 0.5"), r"weights\.replie: wanted one of the names in features"),
    "double feature": (_swap('"reply"]', '"reply", "reply"]'), r"features\[2\]: wanted each feature once"),
    "features no list": (_swap('["favorite", "reply"]', '"favorite"'), r"features: wanted a list of 1 to 256 names"),
    "strange feature": (_swap('"reply"]', '"re\\nply"]'), r"features\[1\]: wanted a printable name"),
    "no weights": (_swap("[stakeholders.user.weights]", "[stakeholders.user.fit]"), r"user\.weights: wanted a table"),
    "strange name": (_swap("stakeholders.user.", 'stakeholders."The User".'), r"wanted a name of small letters"),
    "no stakeholders": (
        lambda text: text[: text.index("[stak")] + text[text.index("[pool]") :],
        r"stakeholders: wanted 1 to 64 tables",
    ),
    "stakeholders no table": (lambda text: 'schema = 1\nstakeholders = "me"\n', r"stakeholders: wanted 1 to 64 tables"),
    "fit no table": (_swap("[pool]", '[stakeholders.you]\nfit = "x"\n[pool]'), r"you\.fit: wanted a table"),
    "rows": (_swap("rows = 10", "rows = 0"), r"pool\.rows: wanted a whole number of at least 1, found 0"),
    "mean": (_swap("mean = [0.1, 0.2]", "mean = [0.1]"), r"pool\.mean: wanted 2 finite numbers"),
    "mean nan": (_swap("mean = [0.1, 0.2]", "mean = [0.1, nan]"), r"pool\.mean: wanted 2 finite numbers"),
    "covariance": (_swap("[0.0, 0.02]]", "[0.0]]"), r"pool\.covariance\[1\]: wanted 2 finite numbers"),
    "covariance rows": (_swap(", [0.0, 0.02]]", "]"), r"pool\.covariance: wanted 2 rows of 2"),
    "not symmetric": (_swap("[0.0, 0.02]]", "[0.5, 0.02]]"), r"pool: moments: the covariance is not symmetric"),
    "pool without order": (_swap('features = ["favorite", "reply"]\n', ""), r"features: wanted, as pool goes by"),
    "pool no table": (lambda text: text[: text.index("[pool]")].replace("schema", "pool = 1\nschema"), r"pool: wanted"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file(name: str, tmp_path: Path) -> None:
    """Each mistake is told with the file, the key, what was wanted and what was found."""
    change, told = WRONG[name]
    path = tmp_path / "u.toml"
    path.write_text(change(GOOD))
    with pytest.raises(DataError, match=told) as caught:
        Utilities.read(path)
    assert str(caught.value).startswith(f"{path}: cannot be used\n")


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    """Mistakes are told together."""
    path = tmp_path / "u.toml"
    path.write_text(
        GOOD.replace("reply = 0.5", "reply = nan").replace("rows = 10", "rows = -1").replace("= 1\n", "= 7\n")
    )
    with pytest.raises(DataError) as caught:
        Utilities.read(path)
    assert str(caught.value).count("\n  - ") == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "not TOML"),
        (b"schema = ", "not TOML"),
        (b"x = " + b"[" * 100_000, "not TOML"),
        (b"#" * (utilities_file.MAX_BYTES + 1), "wanted a file of at most"),
        (b"", "schema: wanted 1"),
    ],
)
def test_hostile_file(content: bytes, told: str, tmp_path: Path) -> None:
    """Bytes that are no utilities are refused with the file's name, however they are wrong."""
    path = tmp_path / "u.toml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        Utilities.read(path)
    assert str(path) in str(caught.value)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    """A missing file is told with the command that makes one; so is a folder, as what it is."""
    with pytest.raises(DataError, match=r"no such file; `candidate-pipeline stakeholder learn"):
        Utilities.read(tmp_path / "no.toml")
    with pytest.raises(DataError, match="cannot be read"):
        Utilities.read(tmp_path)


def test_write_leaves_what_was_there_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted write leaves the old file and nothing beside it."""
    path = tmp_path / "u.toml"
    DECLARED.write(path)
    before = path.read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DECLARED_ACTIONS.write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_declared_label_family() -> None:
    """The label family has the published cosines, and differs between stakeholders in the negatives alone."""
    user, platform, society = (DECLARED.vector(name) for name in ("user", "platform", "society"))
    assert [round(cosine(*pair), 3) for pair in ((user, platform), (user, society), (platform, society))] == [
        0.893,
        0.843,
        0.510,
    ]
    assert DECLARED.features == RUNNER_DISCRETE
    for name, weight in zip(DECLARED.features, society, strict=True):
        assert weight == (1.0 if name in POSITIVE else -4.0 if name in NEGATIVE_ACTIONS else 0.0)
    assert "quote" not in POSITIVE


def test_declared_families_are_told_apart() -> None:
    """The action family has its own tables; the platform gains from a negative action; nonsense is refused."""
    assert DECLARED_ACTIONS.as_mapping()["user"]["report"] == -2.5
    assert DECLARED_ACTIONS.as_mapping()["platform"]["report"] == 0.2
    assert declared("label", alpha={"me": 2.0}).as_mapping()["me"]["report"] == -2.0
    with pytest.raises(DataError, match="wanted the family"):
        declared("actions", alpha={"me": 2.0})
    with pytest.raises(DataError, match="wanted the family"):
        declared("rewards")


@given(alpha=st.floats(0, 100))
@QUICK
def test_label_weights_over_other_features(alpha: float) -> None:
    """Label weights follow the names of the features, whatever their order."""
    features = ("report", "unknown", "favorite")
    assert label_weights(alpha, features).tolist() == [-alpha, 0.0, 1.0]


@QUICK
@given(made=utilities(), data=st.data())
def test_select_reorders_and_fills(made: Utilities, data: st.DataObject) -> None:
    """Selected features keep their weights and moments wherever they stand; unknown ones weigh and vary 0."""
    features = [*data.draw(st.permutations(made.features)), "what nobody has"]
    found = made.select(features)
    assert found.features == tuple(features)
    for old, name in enumerate(made.features):
        assert np.array_equal(found.weights[:, features.index(name)], made.weights[:, old])
    assert not found.weights[:, -1].any()
    if made.pool is not None and found.pool is not None:
        assert np.allclose(found.pool.sd(found.weights), made.pool.sd(made.weights))
        assert found.pool.mean[-1] == 0
    assert np.array_equal(found.select(made.features).weights, made.weights)


def test_only_and_vector() -> None:
    """Stakeholders are taken by name, in the order asked for; an unknown one is told with those that there are."""
    assert DECLARED.only(["society", "user"]).names == ("society", "user")
    assert np.array_equal(DECLARED.only(["society"]).weights[0], DECLARED.vector("society"))
    with pytest.raises(DataError, match="no stakeholder 'me'; there are user, platform, society"):
        DECLARED.vector("me")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"features": ("a",), "names": ("u",), "weights": [[math.nan]]}, "wanted numbers from -1e"),
        ({"features": ("a", "a"), "names": ("u",), "weights": [[1, 2]]}, "features: named twice: a"),
        ({"features": ("a",), "names": ("U",), "weights": [[1]]}, "wanted a name of small letters"),
        ({"features": (), "names": ("u",), "weights": np.zeros((1, 0))}, "features: wanted 1 to 256, found 0"),
        ({"features": ("a",), "names": ("u",), "weights": [[1, 2]]}, r"wanted shape \(1, 1\), found \(1, 2\)"),
        ({"features": (" a",), "names": ("u",), "weights": [[1]]}, "wanted a printable name"),
        ({"features": ("a",), "names": ("u",), "weights": [[1]], "fits": {"v": {}}}, "fits: v is not a stakeholder"),
        (
            {
                "features": ("a",),
                "names": ("u",),
                "weights": [[1]],
                "pool": Moments.of([0.0, 0.0], np.eye(2), 3),
            },
            "pool: wanted moments of 1 features, found 2",
        ),
    ],
)
def test_wrong_utilities(given: dict[str, Any], told: str) -> None:
    """Utilities that cannot be are refused, with all that is wrong."""
    with pytest.raises(DataError, match=told):
        Utilities(**given)


def test_of_refuses_weights_outside_the_features() -> None:
    """A weight for a feature that is not named is no weight to lose quietly."""
    with pytest.raises(DataError, match="weights for 'b', which the features do not name"):
        Utilities.of({"me": {"a": 1.0, "b": 2.0}}, features=["a"])


def test_arrays_cannot_be_written_to() -> None:
    """Utilities are shared, so their arrays are read-only, and not those that were handed in."""
    mine = np.ones((1, 1))
    made = Utilities(("a",), ("u",), mine)
    mine[0, 0] = 5
    assert made.vector("u").tolist() == [1.0]
    with pytest.raises(ValueError, match="read-only"):
        made.weights[0, 0] = 2
