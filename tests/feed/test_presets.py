"""Weight presets: the published figures, and what their files promise."""

from __future__ import annotations

import datetime as dt
from importlib import resources

import pytest

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_feed import presets
from candidate_pipeline_feed.actions import CONTINUOUS, NEGATIVE

DATED = ("2026-08-12", "2026-09-22", "2026-09-29", "2026-10-07")


def test_names() -> None:
    """The presets are the four published dates and the ranker of 2023."""
    assert presets.names() == ("2023-the-algorithm-ml", *DATED)


@pytest.mark.parametrize(
    ("name", "positive", "negative", "total"),
    [("2026-08-12", 43.32, 367.22, 410.54), ("2026-10-07", 43.235, 371.54, 414.775)],
)
def test_derived_sums(name: str, positive: float, negative: float, total: float) -> None:
    """The sums that the offset is computed with are the published ones."""
    preset = presets.preset(name)
    assert preset.positive_sum == pytest.approx(positive, abs=1e-9)
    assert preset.negative_sum == pytest.approx(negative, abs=1e-9)
    assert preset.total == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    ("older", "newer", "changes"),
    [
        ("2026-08-12", "2026-09-22", {"video_open": 0.07, "vqv": 0.0, "dwell": 0.05}),
        ("2026-09-22", "2026-09-29", {"click": 0.3, "click_dwell_time": 0.4, "not_interested": -47.52}),
        ("2026-09-29", "2026-10-07", {"post_unexplored": 0.015}),
    ],
)
def test_changes_between_dates(older: str, newer: str, changes: dict[str, float]) -> None:
    """From one date to the next the published changes happened, and no others."""
    before, after = presets.preset(older).weights, presets.preset(newer).weights
    assert {head: weight for head, weight in after.items() if before[head] != weight} == changes


@pytest.mark.parametrize("name", DATED)
def test_dated_presets(name: str) -> None:
    """A dated preset says its date and source, and has the signs, offset, video rule and boost as published."""
    preset = presets.preset(name)
    assert preset.date == dt.date.fromisoformat(name)
    assert "x-algorithm" in preset.source
    assert {head for head, weight in preset.weights.items() if weight < 0} == NEGATIVE
    assert set(CONTINUOUS) <= set(preset.weights)
    assert (preset.offset, preset.min_video_duration_ms, preset.max_viewer_followers) == (0.001, 10_000, 10_000)
    assert preset.mutual_reply_boost == 15


def test_the_ranker_of_2023() -> None:
    """The figures of 2023 are there for contrast; those without an action here are named and not used."""
    preset = presets.preset("2023-the-algorithm-ml")
    assert dict(preset.weights) == {"favorite": 0.5, "repost": 1.0, "reply": 13.5, "report": -369.0}
    assert preset.unmapped["reply_engaged_by_author"] == 75.0
    assert preset.mutual_reply_boost == 0


@pytest.mark.parametrize("name", [*DATED, "2023-the-algorithm-ml"])
def test_files_say_what_they_are_not(name: str) -> None:
    """Every file says that it is no account of what users experience, and that the project is not affiliated."""
    text = (resources.files(presets) / f"{name}.toml").read_text(encoding="utf-8")
    for words in ("not what any user of X experiences", "predicted probabilities", "Not affiliated"):
        assert words in text
    assert "not affiliated" in presets.NOTE


def test_unknown_name() -> None:
    """An unknown preset is answered with the nearest and the list of those there are."""
    with pytest.raises(MisconfigurationError) as caught:
        presets.preset("2026-10-7")
    message = str(caught.value)
    assert "did you mean '2026-10-07'?" in message
    assert all(name in message for name in presets.names())


@pytest.mark.parametrize("name", ["", "../presets/2026-10-07", "__init__"])
def test_names_are_no_paths(name: str) -> None:
    """Only the listed names are read, no other file."""
    with pytest.raises(MisconfigurationError, match="no weight preset"):
        presets.preset(name)


def test_damaged_files() -> None:
    """A file without weights, with an unknown action, or with a missing or unknown entry says so."""
    with pytest.raises(DataError, match="no table"):
        presets.parse("mine", {})
    with pytest.raises(MisconfigurationError, match="did you mean 'favorite'"):
        presets.parse("mine", {"weights": {"favourite": 1.0}})
    with pytest.raises(DataError, match=r"mine.*date"):
        presets.parse("mine", {"weights": {"favorite": 1.0}})
    with pytest.raises(DataError, match="could not convert"):
        presets.parse("mine", {"weights": {"favorite": "much"}})
