"""Figures and conditions of an audit as texts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Missing,
    Tone,
    listed,
    number,
    plural,
    share,
    share_decimals,
    short,
)
from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.audit.record import Audit, Condition, RegretPoint, Verdict

LONG: Final = 32
"""Longer names are cut in sentences; tables have them whole."""
SMALL: Final = 0.005
"""A part of a mix below this rounds to nothing."""
NONE: Final = "–"
"""Where there is no figure."""

VERDICTS: Final[Mapping[Verdict, Cell]] = {
    "helps": Cell("helps", "good"),
    "harms": Cell("harms", "bad"),
    "cannot tell": Cell("cannot tell", "faint"),
    "none": Cell("nothing varies", "faint"),
}

CONDITIONS: Final[Mapping[Condition, str]] = {
    "true utility": "its own utility, as given",
    "pairs": "learned from {pairs} of its own",
    "zero pairs": "nothing: the mix without it",
    "wrong pairs": "learned from {pairs} of others",
    "no model": "no model at all: groups in turn",
    "untrained zero start": "untrained, starting at zero",
    "untrained signed start": "untrained, starting at the signs",
    "pairs from the signed start": "{pairs}, starting at the signs",
}
CONTROLS: Final[frozenset[Condition]] = frozenset(
    {
        "zero pairs",
        "wrong pairs",
        "no model",
        "untrained zero start",
        "untrained signed start",
        "pairs from the signed start",
    }
)


def missing(audit: Audit, part: str) -> Missing:
    """Why a part is not there."""
    return Missing(audit.reasons.get(part, "The audit was stopped before it."))


def value(estimate: Estimate | float | None) -> float:
    """The figure itself; NaN where there is none."""
    found = estimate.value if isinstance(estimate, Estimate) else estimate
    return math.nan if found is None else found


def ends(estimate: Estimate) -> tuple[float, float]:
    """The ends of the interval; NaN where there is none."""
    if estimate.low is None or estimate.high is None:
        return math.nan, math.nan
    return estimate.low, estimate.high


def plain(estimate: Estimate | float | None, digits: int = 2, sign: bool = False) -> str:
    """A figure without its interval."""
    return number(value(estimate), digits, sign)


def interval(estimate: Estimate, digits: int = 2, sign: bool = False) -> str:
    """A figure with its interval: `−.31 [−.40, −.22]`."""
    text = number(value(estimate), digits, sign)
    low, high = ends(estimate)
    if text == NONE or low != low:  # noqa: PLR0124 - NaN
        return text
    return f"{text} [{number(low, digits, sign, tiny=False)}, {number(high, digits, sign, tiny=False)}]"


def percent(estimate: Estimate) -> str:
    """A share with its interval: `43% [35, 51]`."""
    return percentages(value(estimate), *ends(estimate))


def percentages(middle: float, low: float, high: float) -> str:
    """A share with the ends of its interval, which are NaN where there is none."""
    if math.isnan(middle) or math.isnan(low):
        return share(middle)
    digits = share_decimals(middle, low, high)
    bounds = (share(each, digits).removesuffix("%") for each in (low, high))
    return f"{share(middle, digits)} [{', '.join(bounds)}]"


def tidy(sentences: Sequence[str]) -> tuple[str, ...]:
    """Sentences with figures as they are written everywhere else: `35%`, `−0.04`."""
    return tuple(re.sub(r"(?<![\w.])-(?=\d)", "−", re.sub(r"(?<=\d) %", "%", each)) for each in sentences)


def condition(point: RegretPoint) -> str:
    """What stands in for a stakeholder."""
    return CONDITIONS[point.condition].format(pairs=plural(point.pairs, "pair"))


def mix_text(weights: Mapping[str, float], most: int = 4) -> str:
    """A mix: `user .60, society .40`, largest first, without those of weight 0; or `equal parts`.

    Args:
        weights: The mix.
        most: How many are named.
    """
    if len(weights) > 1 and len({round(weight, 12) for weight in weights.values()}) == 1 and any(weights.values()):
        return "equal parts"
    named = sorted((name for name, weight in weights.items() if weight), key=lambda name: -abs(weights[name]))
    texts = [
        f"{short(name, LONG)} {number(weights[name]) if abs(weights[name]) >= SMALL else '<.01'}" for name in named
    ]
    if len(texts) > most:
        texts = [*texts[: most - 1], f"{len(texts) - most + 1} more"]
    return ", ".join(texts) or "nobody"


def some(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, cut short where they are many: `a, b, c and 9 more`."""
    shown = [short(name, LONG) for name in names]
    return listed(shown if len(shown) <= most else [*shown[: most - 1], f"{len(shown) - most + 1} more"])


def tone_of(signed: float, small: float = 0.0) -> Tone:
    """How a change is meant: bad below zero, good above."""
    return "bad" if signed < -small else "good" if signed > small else "faint"
