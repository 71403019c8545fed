"""Which of a model's action heads are which actions of the feed, by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.actions import DISCRETE

FEED_NAMES: Final[dict[str, str]] = {
    "dwelled": "dwell",
    "retweet": "repost",
    "client_report": "report",
    "video_quality_view": "vqv",
}
"""Heads that the feed calls otherwise. `client_report` is in the published enumeration of actions (x-algorithm,
August 2026 release), where it is the person's report; `server_report` beside it has no place in the feed."""


def feed_name(head: str) -> str | None:
    """The feed's name of a head, or None where the feed knows no such action: undoing one, or one without a name."""
    name = FEED_NAMES.get(head, head)
    return name if name in DISCRETE else None


@attrs.frozen(eq=False)
class Heads:
    """The heads of a model that the feed can use.

    Args:
        columns: Their places among the model's actions, intp [k].
        labels: The feed's names of them.
    """

    columns: NDArray[np.intp]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str], only: Collection[str] | None = None) -> Heads:
        """The usable heads of a model, in its order; of two heads of one feed action the first.

        Args:
            names: All of the model's action names.
            only: Leave out all others.
        """
        found: dict[str, int] = {}
        for column, name in enumerate(names):
            label = feed_name(name)
            if label is not None and (only is None or name in only):
                found.setdefault(label, column)
        return cls(np.array(list(found.values()), np.intp), tuple(found))
