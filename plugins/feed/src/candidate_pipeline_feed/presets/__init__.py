"""Weights of predicted actions, as published at a date: data files, one a preset."""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import attrs

from candidate_pipeline.errors import DataError, MisconfigurationError
from candidate_pipeline_feed.actions import CONTINUOUS, PREDICTABLE

NOTE: Final = (
    "Public defaults at their date. They multiply predicted probabilities (or seconds), never counts. They are not "
    "what any user of X experiences, and this project is not affiliated with X or xAI."
)
"""What to say wherever weights are shown."""


@attrs.frozen
class Preset:
    """Weights at a date.

    Args:
        name: Its name, the date for weights of the x-algorithm.
        date: Since when they were public.
        source: Where they were published.
        weights: Weight of each predicted action; the others weigh 0. Of a continuous action, per second.
        offset: What the offset for negatives adds.
        min_video_duration_ms: A video must be longer for its quality view to count, ms.
        max_viewer_followers: Quality views count for viewers with fewer followers.
        mutual_reply_boost: Added to the weight of a reply where author and viewer follow each other.
        unmapped: Published weights of predictions that are none of the actions here.
        note: What to know when comparing.
    """

    name: str
    date: dt.date
    source: str
    weights: Mapping[str, float]
    offset: float
    min_video_duration_ms: int
    max_viewer_followers: int
    mutual_reply_boost: float = 0.0
    unmapped: Mapping[str, float] = attrs.field(factory=dict)
    note: str = ""

    @property
    def positive_sum(self) -> float:
        """Sum of the positive weights of probabilities."""
        return sums(self.weights)[0]

    @property
    def negative_sum(self) -> float:
        """Sum of the negative weights of probabilities, as a positive number."""
        return sums(self.weights)[1]

    @property
    def total(self) -> float:
        """Sum of the absolute weights of probabilities."""
        return sum(sums(self.weights))


def sums(weights: Mapping[str, float], heads: Collection[str] = PREDICTABLE) -> tuple[float, float]:
    """The normalisers P and N: sums of the positive and of the (negated) negative weights of probabilities.

    Args:
        weights: Weight of each action.
        heads: The actions there are; others are left out, and so are the continuous ones.
    """
    counted = [weight for head, weight in weights.items() if head in heads and head not in CONTINUOUS]
    return sum(w for w in counted if w > 0), sum(-w for w in counted if w < 0)


def names() -> tuple[str, ...]:
    """The presets there are, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


@lru_cache
def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
        MisconfigurationError: There is none; the message lists those there are.
        DataError: Its file is damaged.
    """
    there = names()
    if name not in there:
        near = difflib.get_close_matches(name, there, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise MisconfigurationError(f"no weight preset {name!r}{hint}; there are: {', '.join(there)}")
    document = tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
    return parse(name, document)


def parse(name: str, document: Mapping[str, Any]) -> Preset:
    """A preset from its file's contents.

    Raises:
        DataError: Something is missing, unknown or of the wrong type.
    """
    weights = document.get("weights")
    if not isinstance(weights, dict):
        raise DataError(f"weight preset {name!r}: it has no table [weights]")
    check_heads(weights, f"weight preset {name!r}")
    try:
        return Preset(name, **{**document, "weights": {head: float(weight) for head, weight in weights.items()}})
    except (TypeError, ValueError) as error:
        raise DataError(f"weight preset {name!r} is damaged: {error}") from error


def check_heads(heads: Collection[str], where: str) -> None:
    """Refuse names that are no predicted action.

    Raises:
        MisconfigurationError: One of them is unknown; the message gives the nearest and lists all.
    """
    for head in heads:
        if head not in PREDICTABLE:
            near = difflib.get_close_matches(head, PREDICTABLE, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise MisconfigurationError(
                f"{where}: no predicted action is called {head!r}{hint}; there are: {', '.join(PREDICTABLE)}"
            )
