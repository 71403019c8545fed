"""The actions a person can take on a post, named once for tables, models and scorers.

Order matters: the first 18 discrete names and the first continuous one are the outputs of the example runners
in the x-algorithm releases of January and May 2026, in that order, so a model trained with 19 heads lines up
with them. The rest come from the weighted sum of the May and August 2026 releases, and `bookmark` from the August
synthetic world. Models name their heads with these strings and never with bare indices.
"""

from __future__ import annotations

from typing import Final

import attrs

RUNNER_DISCRETE: Final[tuple[str, ...]] = (
    "favorite",
    "reply",
    "repost",
    "photo_expand",
    "click",
    "profile_click",
    "vqv",
    "share",
    "share_via_dm",
    "share_via_copy_link",
    "dwell",
    "quote",
    "quoted_click",
    "follow_author",
    "not_interested",
    "block_author",
    "mute_author",
    "report",
)
"""The 18 discrete heads of the January and May runners, in their order."""

DISCRETE: Final[tuple[str, ...]] = (
    *RUNNER_DISCRETE,
    "video_open",
    "open_link",
    "quoted_vqv",
    "not_dwelled",
    "post_unexplored",
    "bookmark",
)
"""Every action that happens or does not; its prediction is a probability."""

CONTINUOUS: Final[tuple[str, ...]] = ("dwell_time", "click_dwell_time")
"""Actions that carry an amount, in seconds; the prediction is that amount."""

NEGATIVE: Final[frozenset[str]] = frozenset({"not_interested", "block_author", "mute_author", "report", "not_dwelled"})
"""Actions that say "less of this". Their weights are the negative ones of the weighted sum."""

PREDICTABLE: Final[tuple[str, ...]] = (*DISCRETE, *CONTINUOUS)
"""Every head a model may have."""

IMPRESSION: Final = "impression"
"""The post was shown. Not predicted: it is what the other actions are predicted for."""

EVENT_ACTIONS: Final[tuple[str, ...]] = (*PREDICTABLE, IMPRESSION)
"""What the `action` column of the events table may hold; in memory, an action is its index here."""

ACTION_CODE: Final[dict[str, int]] = {name: code for code, name in enumerate(EVENT_ACTIONS)}
"""Index of each name in `EVENT_ACTIONS`."""

DWELL_MARK_S: Final = 10.0
"""Seconds on screen from which a post counts as dwelled on (August 2026 synthetic world)."""


@attrs.frozen
class Action:
    """What one action means.

    Args:
        name: Its name in tables, models and weights.
        doc: What the person did.
        kind: "discrete", "continuous" or "impression".
        negative: Whether it says "less of this".
    """

    name: str
    doc: str
    kind: str
    negative: bool


_DOCS: Final[dict[str, str]] = {
    "favorite": "liked the post",
    "reply": "answered it",
    "repost": "passed it on unchanged",
    "photo_expand": "opened one of its photos",
    "click": "opened the post",
    "profile_click": "opened the author's profile",
    "vqv": "video quality view: watched its video long enough to count",
    "share": "opened or used the share sheet",
    "share_via_dm": "sent it in a direct message",
    "share_via_copy_link": "copied its link",
    "dwell": "kept it on screen for at least 10 seconds",
    "quote": "passed it on with a comment",
    "quoted_click": "opened the post that it quotes",
    "follow_author": "followed its author from it",
    "not_interested": 'said "not interested"',
    "block_author": "blocked its author from it",
    "mute_author": "muted its author from it",
    "report": "reported it",
    "video_open": "opened its video",
    "open_link": "followed a link in it",
    "quoted_vqv": "quality view of the video in the post that it quotes",
    "not_dwelled": "scrolled past it at once",
    "post_unexplored": "was shown it by exploration and left it alone",
    "bookmark": "saved it for later",
    "dwell_time": "seconds it stayed on screen",
    "click_dwell_time": "seconds spent in it after opening it",
    IMPRESSION: "it was shown",
}


def _kind(name: str) -> str:
    if name in CONTINUOUS:
        return "continuous"
    return "impression" if name == IMPRESSION else "discrete"


ACTIONS: Final[tuple[Action, ...]] = tuple(
    Action(name, _DOCS[name], _kind(name), name in NEGATIVE) for name in EVENT_ACTIONS
)
"""Each entry of `EVENT_ACTIONS` with its meaning."""
