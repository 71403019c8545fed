"""Names of the action heads."""

from __future__ import annotations

from phoenix_recsys.config import RankerConfig, RetrievalConfig

PUBLISHED_ACTION_NAMES = (
    "invalid",
    "favorite",
    "unfavorite",
    "create",
    "reply",
    "quote",
    "repost",
    "unreply",
    "unquote",
    "unrepost",
    "server_report",
    "dwell",
    "not_dwelled",
    "vqv",
    "photo_expand",
    "mention_click",
    "client_report",
    "not_interested",
    "undo_not_interested",
)
"""Heads 0 … 18 of a published artifact: the action enumeration of the x-algorithm August 2026 release.

Six of them (1, 4, 5, 6, 11, 13) are named by the May release too; that the May artifacts share the rest is an
inference.
"""


def action_names(config: RankerConfig | RetrievalConfig) -> tuple[str, ...]:
    """Name of each of the A actions: the configured names, or the published enumeration where there are none.

    Heads past the published ones are called ``action_19`` and so on.
    """
    if config.action_names is not None:
        return config.action_names
    known = PUBLISHED_ACTION_NAMES[: config.num_actions]
    return known + tuple(f"action_{index}" for index in range(len(known), config.num_actions))
