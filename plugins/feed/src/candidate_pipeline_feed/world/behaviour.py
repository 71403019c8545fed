"""What people do with the posts they are shown: actions with given base rates, driven by utility."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.actions import DWELL_MARK_S
from candidate_pipeline_feed.world.exposure import Exposures
from candidate_pipeline_feed.world.posts import HOUR_MS, Posts
from candidate_pipeline_feed.world.tastes import Latents

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_VIDEO_MS: Final = 10_000
"""Shortest video that can have a quality view (October 2026 release)."""
_MAX_DWELL_S = 180.0
_HABIT = 0.6


@attrs.frozen
class Drive:
    """How one action depends on what is hidden.

    Args:
        rate: Share of all impressions that get the action.
        utility: Weight of the (standardised) utility in the log-odds.
        quality: Weight of the post's quality.
        followed: Log-odds for a followed author.
        age: Log-odds for each ten hours of age.
    """

    rate: float
    utility: float
    quality: float = 0.0
    followed: float = 0.0
    age: float = 0.0


DRIVES: Final[dict[str, Drive]] = {
    "favorite": Drive(0.14, 1.7, followed=0.4, age=-0.3),
    "click": Drive(0.10, 1.1, quality=0.2),
    "vqv": Drive(0.08, 1.4, quality=0.2),
    "repost": Drive(0.045, 1.5, quality=0.3, age=-0.3),
    "reply": Drive(0.035, 0.9, followed=0.8, age=-0.4),
    "bookmark": Drive(0.02, 1.3, quality=0.5),
    "quote": Drive(0.015, 1.2, quality=0.2, age=-0.3),
    "share": Drive(0.012, 1.2, quality=0.4),
    "follow_author": Drive(0.004, 1.5, quality=0.4),
    "not_interested": Drive(0.004, -1.4),
    "mute_author": Drive(0.001, -1.4),
    "block_author": Drive(0.001, -1.4, quality=-0.5),
    "report": Drive(0.0005, -1.2, quality=-0.8),
}
"""Each action and its base rate. Those of positive actions are the August 2026 synthetic world's (but for
`follow_author`, chosen here); not-interested, mute, block and report are chosen here."""


@attrs.frozen(eq=False)
class Behaviour:
    """What happened on each impression, by row of the exposures.

    Args:
        log_odds: Log-odds of each action, float64 [impressions]; minus infinity where it cannot happen.
        happened: Whether it did, bool [impressions].
        dwell_s: Seconds on screen, float64 [impressions].
        click_dwell_s: Seconds spent in the post after a click, 0 without one, float64 [impressions].
    """

    log_odds: Mapping[str, Floats]
    happened: Mapping[str, Mask]
    dwell_s: Floats
    click_dwell_s: Floats


def _sigmoid(x: Floats) -> Floats:
    p: Floats = 1.0 / (1.0 + np.exp(-x))
    return p


def calibrated(log_odds: Floats, rate: float) -> float:
    """The intercept at which the mean probability is `rate`, to be added to log-odds of shape [n].

    Minus infinity marks impossible rows; they count in the mean. Found by bisection.
    """
    low, high = -40.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        if _sigmoid(log_odds + middle).mean() < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def utility(latents: Latents, posts: Posts, exposures: Exposures) -> Floats:
    """Utility of each shown post for its reader, standardised over the impressions, float64 [impressions]."""
    raw = np.einsum("ij,ij->i", latents.reader_factors()[exposures.user], posts.factors[exposures.post])
    standardised: Floats = (raw - raw.mean()) / max(float(raw.std()), 1e-9)
    return standardised


def act(rng: np.random.Generator, latents: Latents, posts: Posts, exposures: Exposures) -> Behaviour:
    """Draw dwell times and actions."""
    count = len(exposures.user)
    if count == 0:
        nothing = np.zeros(0)
        return Behaviour({}, {}, nothing, nothing)
    value = utility(latents, posts, exposures)
    quality = posts.quality[exposures.post]
    age = (exposures.opened - posts.created_at[exposures.post]) / HOUR_MS / 10.0
    video_ms = posts.video_ms[exposures.post]
    length = np.array([len(text) for text in posts.text])[exposures.post]

    log_odds: dict[str, Floats] = {}
    happened: dict[str, Mask] = {}
    for name, drive in DRIVES.items():
        habit = rng.normal(scale=_HABIT, size=len(latents.taste))[exposures.user]  # some like a lot, some nothing
        odds = drive.utility * value + drive.quality * quality + drive.age * age + habit
        odds = odds + drive.followed * exposures.followed
        if name == "vqv":
            odds[video_ms < MIN_VIDEO_MS] = -np.inf
        if name == "follow_author":
            odds[exposures.followed] = -np.inf
        odds = odds + calibrated(odds, drive.rate)
        log_odds[name] = odds
        happened[name] = rng.random(count) < _sigmoid(odds)

    patience = rng.normal(scale=0.35, size=len(latents.taste))[exposures.user]
    pace = np.log(4.5) + 0.4 * value + 0.3 * np.log(length / 80.0) + 0.5 * (video_ms > 0) + patience
    dwell = np.clip(np.exp(pace + rng.normal(scale=0.7, size=count)), 0.4, _MAX_DWELL_S)
    # A quality view takes its time.
    dwell = np.where(happened["vqv"], np.maximum(dwell, np.minimum(video_ms / 1000.0, DWELL_MARK_S)), dwell)
    inside = np.clip(np.exp(np.log(14.0) + 0.3 * value + rng.normal(scale=0.8, size=count)), 1.0, _MAX_DWELL_S)
    happened["dwell"] = dwell >= DWELL_MARK_S
    return Behaviour(log_odds, happened, dwell, np.where(happened["click"], inside, 0.0))
