"""What more data for one stakeholder does to another."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Section,
    Table,
    number,
    table,
)
from candidate_pipeline_stakeholder.audit.record import (
    Alignment,
    Audit,
    Cosines,
)
from candidate_pipeline_stakeholder.audit.wording import (
    VERDICTS,
    interval,
    missing,
    plain,
    tidy,
    value,
)

MOST_MAPPED: Final = 24
"""More stakeholders than this make no heat map that can be read."""


def alignment_section(audit: Audit) -> Section:
    """What more data for one stakeholder does to another."""
    title = "Who is aligned with whom"
    part, plain_cosines = audit.alignment, audit.cosines
    words = (part.words if part else ()) + (plain_cosines.words if plain_cosines else ())
    if part is None:
        return Section("alignment", title, tidy(words), (missing(audit, "alignment"), *_cosines_alone(plain_cosines)))
    if not part.pairs:
        return Section("alignment", title, tidy(words), ())
    parts = (_maps(part), _prediction(part), _pairs(part))
    return Section("alignment", title, tidy(words), parts)


def _cosines_alone(part: Cosines | None) -> tuple[Table, ...]:
    if part is None or len(part.names) < 2:
        return ()
    rows = (
        (one, other, plain(part.matrix[at][beside]))
        for at, one in enumerate(part.names)
        for beside, other in enumerate(part.names)
        if at < beside
    )
    return (table("Cosines of the weights", {"stakeholder": "l", "and": "l", "cosine": "r"}, rows),)


def _maps(part: Alignment) -> Figure:
    names = part.names[:MOST_MAPPED]
    matrix = square(names, {(each.target, each.other): value(each.cosine) for each in part.pairs})
    by_weights = {(each.target, each.other): value(each.weight_cosine) for each in part.pairs}

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import heat_maps

        maps = [("through the pool", matrix), ("weights alone", square(names, by_weights))]
        return heat_maps(names, maps, key=key, title=title, description=description)

    told = "; ".join(
        f"{each.target} and {each.other} {plain(each.cosine)} (weights alone {plain(each.weight_cosine)})"
        for each in part.pairs[:12]
    )
    left = len(part.names) - len(names)
    return Figure(
        "cosines",
        "Cosines through the pool's covariance, beside plain ones",
        f"Two square tables of cosines from −1 to 1. {told}.",
        "Blue: what is good for one is good for the other among these candidates. Orange: selecting harder for one "
        "takes from the other." + (f" {left} more stakeholders are in the table." if left else ""),
        "Control: the cosines of the weights alone, which do not know that features vary together; where the two maps "
        "differ, believe the first.",
        draw,
    )


def square(names: tuple[str, ...], cells: dict[tuple[str, str], float]) -> NDArray[np.float64]:
    """A matrix with ones on its diagonal, NaN where a pair is not known."""
    made = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(made, 1.0)
    place = {name: at for at, name in enumerate(names)}
    for (one, other), cell in cells.items():
        if one in place and other in place:
            made[place[one], place[other]] = cell
    return made


def _prediction(part: Alignment) -> Figure:
    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.planes import scatter
        from candidate_pipeline_stakeholder.audit.svg import label

        known = [each for each in part.pairs if value(each.cosine) == value(each.cosine)]
        return scatter(
            np.array([value(each.cosine) for each in known]),
            np.array([value(each.top_shift) for each in known]),
            np.array([value(each.weight_cosine) for each in known]),
            names=("through the pool", "control: weights alone"),
            texts=[
                f"{label(each.target, 14)}, {label(each.other, 14)}" if each.target < each.other else ""
                for each in known
            ],
            x="predicted: cosine",
            y=f"measured: shift of the top {part.size}, sd",
            band=part.strong,
            key=key,
            title=title,
            description=description,
        )

    return Figure(
        "prediction",
        "Predicted before training, measured after selecting",
        f"One point an ordered pair of stakeholders: the predicted cosine, and how far the {part.size} best of one "
        f"stakeholder shift the other's utility. {part.agree:,} of {part.checked:,} strong pairs have its sign.",
        f"Points in the shaded quarters have the predicted sign: {part.agree:,} of the {part.checked:,} pairs with a "
        f"cosine of at least {number(part.strong)} either way. The slate is chosen anew for it; nothing is trained. "
        "Both orders of a pair have the same cosine; where names are written, they are at one of the two.",
        "Control: crosses are the same pairs by the cosine of the weights alone.",
        draw,
    )


def _pairs(part: Alignment) -> Table:
    order = sorted(part.pairs, key=lambda each: (value(each.cosine) != value(each.cosine), value(each.cosine)))
    return table(
        "What more data for one does to another",
        {
            "more data for": "l",
            "verdict": "l",
            "whom": "l",
            "cosine [95%]": "r",
            "weights alone": "r",
            "measured, sd [95%]": "r",
        },
        (
            (
                Cell(each.target, "strong"),
                VERDICTS[each.verdict],
                Cell(each.other, "strong"),
                interval(each.cosine),
                plain(each.weight_cosine),
                interval(each.top_shift, 2, sign=True),
            )
            for each in order
        ),
        note="helps, harms: the whole interval is on that side of zero. measured: shift of the other's utility over "
        f"the top {part.size}, in its standard deviations within a request. Intervals: bootstrap over "
        f"{part.bootstrap}, {part.draws} draws.",
    )
