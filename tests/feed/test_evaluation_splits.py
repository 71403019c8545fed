"""The split that training and evaluation share leaks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.engagements import Engagements, gather
from candidate_pipeline_feed.evaluation.cases import Cases, Originals
from candidate_pipeline_feed.evaluation.provenance import require_trained_on
from candidate_pipeline_feed.evaluation.splits import (
    MIN_HISTORY,
    TARGETS_PER_USER,
    TRAINING_FILE,
    Split,
    SplitInfo,
    favorites,
    make_split,
)
from candidate_pipeline_feed.records import Edges, Events, Items

ITEMS = 8
rows = st.tuples(
    st.integers(1, 4),
    st.integers(1, ITEMS),
    st.integers(0, 12),
    st.sampled_from(["favorite", "favorite", "dwell", "impression"]),
)
logs = st.lists(rows, min_size=1, max_size=60)
steady = [(user, item, item + 2 * (user - 5), "favorite") for user in (5, 6, 7) for item in range(1, ITEMS + 1)]
"""People who favour one item after the other: with them, every split has targets."""


def _events(log: list[tuple[int, int, int, str]]) -> Engagements:
    user, item, time, action = zip(*log, strict=True)
    return gather(Events.build(user_id=user, item_id=item, time=[moment * 1000 for moment in time], action=action))


def _items() -> Items:
    ids = list(range(1, ITEMS + 1))
    return Items.build(item_id=ids, author_id=ids, created_at=[0] * ITEMS, text=["post"] * ITEMS)


def _split(log: list[tuple[int, int, int, str]], name: str, validation: bool) -> tuple[Engagements, Split]:
    events = _events(log)
    try:
        return events, make_split(events, name, validation=validation)
    except DataError:
        assume(False)
        raise


@given(logs, st.booleans())
def test_nothing_at_or_after_a_users_target_is_learnt_from(
    log: list[tuple[int, int, int, str]], validation: bool
) -> None:
    """It expects training to hold of a user exactly what is strictly earlier than the target, and of others all."""
    events, split = _split(log, "leave-last-out", validation)
    mask = split.training_mask(events)
    of_user = dict(zip(split.targets.user_id.tolist(), split.targets.time.tolist(), strict=True))
    for user, time, learnt in zip(events.user_id.tolist(), events.time.tolist(), mask.tolist(), strict=True):
        assert learnt == (user not in of_user or time < of_user[user])
    assert split.cutoff == of_user
    assert split.info.training_events == mask.sum()


@given(logs, st.booleans())
def test_the_target_is_the_last_favourite_of_something_new(
    log: list[tuple[int, int, int, str]], validation: bool
) -> None:
    """It expects, against a slow search, the last (for validation the last but one) favourite of an unmet item."""
    events, split = _split(log, "leave-last-out", validation)
    wanted = {}
    for user in np.unique(events.user_id).tolist():
        mine = np.flatnonzero(events.user_id == user)
        new = [
            int(at)
            for at in mine
            if favorites(events)[at]
            and not any(events.item_id[b] == events.item_id[at] and events.time[b] < events.time[at] for b in mine)
        ]
        if len(new) > validation:
            at = new[-1 - int(validation)]
            wanted[user] = (int(events.item_id[at]), int(events.time[at]))
    found = {
        user: (item, time)
        for user, item, time in zip(*(column.tolist() for column in attrs.astuple(split.targets)), strict=True)
    }
    assert found == wanted


@given(logs, st.sampled_from(["leave-last-out", "time"]))
def test_history_is_strictly_earlier_and_ties_stay_candidates(log: list[tuple[int, int, int, str]], name: str) -> None:
    """It expects candidates to be all items but those met strictly before, and history what was acted on there."""
    events, split = _split(steady + log, name, validation=False)
    cases = Cases(split.targets, events, Originals.of(_items()))
    assert cases.possible().all()
    for at in range(len(cases)):
        case = cases[at]
        before = (events.user_id == split.targets.user_id[at]) & (events.time < split.targets.time[at])
        assert set(np.flatnonzero(~case.candidates) + 1) == set(events.item_id[before].tolist())
        assert (case.history + 1).tolist() == events.item_id[before & events.actions.any(axis=1)].tolist()
        assert case.candidates[case.item]


@given(logs, st.booleans())
def test_the_time_split_holds_out_everything_from_one_moment_on(
    log: list[tuple[int, int, int, str]], validation: bool
) -> None:
    """It expects training to end before the cut, and targets to follow it, with enough history, at most ten a user."""
    events, split = _split(steady + log, "time", validation)
    cut = split.cutoff
    assert isinstance(cut, int)
    assert (split.training_mask(events) == (events.time < cut)).all()
    assert (split.targets.time >= cut).all()
    assert np.unique(split.targets.user_id, return_counts=True)[1].max() <= TARGETS_PER_USER
    for user, time in zip(split.targets.user_id, split.targets.time, strict=True):
        earlier = (events.user_id == user) & (events.time < time)
        assert events.actions[earlier].any(axis=1).sum() >= MIN_HISTORY


def _regular_log() -> list[tuple[int, int, int, str]]:
    return [(user, item, 2 * item + user, "favorite") for user in (1, 2, 3) for item in range(1, ITEMS + 1)]


def test_validation_of_the_time_split_ends_where_its_test_begins() -> None:
    """It expects the targets of both to be disjoint and in order."""
    events = _events(_regular_log())
    test, validation = make_split(events, "time"), make_split(events, "time", validation=True)
    assert validation.targets.time.max() < test.targets.time.min()


def test_follows_made_at_or_after_the_target_are_excluded() -> None:
    """It expects edges strictly before the person's cut, and those without a time, and no others."""
    split = make_split(_events(_regular_log()))
    cut = dict(zip(split.targets.user_id.tolist(), split.targets.time.tolist(), strict=True))
    edges = Edges.build(
        src=[1, 1, 1, 2, 9],
        dst=[5, 6, 7, 5, 5],
        kind=["follow"] * 5,
        created_at=[cut[1] - 1, cut[1], None, cut[2] + 1, 10**15],
    )
    assert split.edge_mask(edges).tolist() == [True, False, True, False, True]


def test_a_split_is_identified_by_what_it_holds_out_and_by_the_data() -> None:
    """It expects equal infos for equal data, and others for another event, split or part."""
    log = _regular_log()
    info = make_split(_events(log)).info
    assert make_split(_events(log)).info == info
    assert SplitInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info
    others = [
        make_split(_events([*log, (1, 8, 1, "dwell")])).info,
        make_split(_events(log), validation=True).info,
        make_split(_events(log), "time").info,
    ]
    assert len({info, *others}) == 4


@pytest.mark.parametrize(
    ("log", "name", "validation", "message"),
    [
        ([(1, 1, 1, "dwell")], "leave-last-out", False, "wanted at least a user with a favourite"),
        ([(1, 1, 1, "favorite")], "leave-last-out", True, "a user with two favourites"),
        ([(1, 1, 1, "dwell"), (1, 1, 2, "favorite")], "leave-last-out", False, "something new to that user"),
        ([(1, 1, 1, "favorite")], "time", False, "5 earlier events"),
        ([(1, 1, 1, "favorite")], "random", False, "there is no split 'random'; there are leave-last-out, time"),
    ],
)
def test_what_cannot_be_split_says_why(
    log: list[tuple[int, int, int, str]], name: str, validation: bool, message: str
) -> None:
    """It expects an error that says what was wanted and what was found."""
    with pytest.raises(DataError, match=message):
        make_split(_events(log), name, validation=validation)


def test_events_without_favourites_by_name_cannot_be_split() -> None:
    """It expects events gathered without that action to be refused."""
    events = gather(Events.build(user_id=[1], item_id=[1], time=[1], action=["dwell"]), ("dwell",))
    with pytest.raises(DataError, match="'favorite'"):
        make_split(events)


@pytest.mark.parametrize("found", [None, [], {"name": "leave-last-out"}, "leave-last-out"])
def test_something_else_than_a_split_is_refused(found: object) -> None:
    """It expects a clear error for data that `as_dict` did not write."""
    with pytest.raises(DataError, match="a split: wanted"):
        SplitInfo.from_dict(found)


def _trained(directory: Path, content: str) -> Path:
    models = directory / "models"
    (models / "ranker").mkdir(parents=True)
    (models / TRAINING_FILE).write_text(content, encoding="utf-8")
    return models


def test_models_trained_on_the_split_pass(tmp_path: Path) -> None:
    """It expects no objection to the same split, nor where there are no models."""
    info = make_split(_events(_regular_log())).info
    assert require_trained_on(_trained(tmp_path, json.dumps({"split": info.as_dict()})), info) == info
    assert require_trained_on(tmp_path / "nothing", info) is None


def test_models_trained_on_another_split_are_refused(tmp_path: Path) -> None:
    """It expects both splits and the command that repairs it in the message."""
    trained = make_split(_events(_regular_log()), "time").info
    models = _trained(tmp_path, json.dumps({"split": trained.as_dict()}))
    wanted = make_split(_events(_regular_log()), validation=True).info
    with pytest.raises(DataError, match="trained on another split") as caught:
        require_trained_on(models, wanted)
    assert "--split leave-last-out --validation" in str(caught.value)
    assert trained.fingerprint[:12] in str(caught.value)
    assert wanted.fingerprint[:12] in str(caught.value)


def test_models_of_older_data_are_refused(tmp_path: Path) -> None:
    """It expects the message to say that the events have changed."""
    info = make_split(_events(_regular_log())).info
    models = _trained(tmp_path, json.dumps({"split": attrs.evolve(info, fingerprint="0" * 64).as_dict()}))
    with pytest.raises(DataError, match="the events have changed"):
        require_trained_on(models, info)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"split": null}', "learnt everything"),
        ("{}", "an entry split"),
        ("not JSON", "an entry split"),
        ('{"split": {"name": "leave-last-out"}}', "a split: wanted"),
    ],
)
def test_models_of_unknown_training_are_refused(tmp_path: Path, content: str, message: str) -> None:
    """It expects an error where nothing says what was held out, or nothing was."""
    with pytest.raises(DataError, match=message):
        require_trained_on(_trained(tmp_path, content), make_split(_events(_regular_log())).info)


def test_models_without_a_record_are_refused(tmp_path: Path) -> None:
    """It expects an error that names the missing file."""
    models = _trained(tmp_path, "")
    (models / TRAINING_FILE).unlink()
    with pytest.raises(DataError, match=f"no {TRAINING_FILE}"):
        require_trained_on(models, make_split(_events(_regular_log())).info)
