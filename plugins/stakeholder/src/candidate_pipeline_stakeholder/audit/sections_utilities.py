"""Who the stakeholders are, and what the mix gives each of them."""

from __future__ import annotations

from typing import Final

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Section,
    Table,
    Text,
    number,
    share,
    table,
)
from candidate_pipeline_stakeholder.audit.record import (
    Audit,
    UtilitiesPart,
)
from candidate_pipeline_stakeholder.audit.wording import (
    ends,
    missing,
    percent,
    some,
    tidy,
    value,
)

MOST_BARS: Final = 16


def utilities_section(audit: Audit) -> Section:
    """The stakeholders, and what the mix gives each of them."""
    title = "What the mix gives whom"
    part = audit.utilities
    if part is None:
        return Section("utilities", title, (), (missing(audit, "utilities"),))
    return Section("utilities", title, tidy(part.words), (_shares_figure(part), _stakeholders(part), *_weights(part)))


def _shares_figure(part: UtilitiesPart) -> Figure:
    everyone = part.stakeholders[:MOST_BARS]
    any_served = any(each.served is not None for each in everyone)

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Bar, bars

        rows = [
            Bar(
                each.name,
                value(each.share),
                *ends(each.share),
                beside=None if each.served is None else (value(each.served), *ends(each.served)),
            )
            for each in everyone
        ]
        return bars(
            rows,
            unit="share of the attainable range (0 worst slate, 1 best)",
            key=key,
            title=title,
            description=description,
            reference=(1.0, "the most it could have, alone"),
        )

    told = "; ".join(f"{each.name} {share(value(each.share))}" for each in everyone)
    left = len(part.stakeholders) - len(everyone)
    return Figure(
        "shares",
        "What each stakeholder gets of what it could have",
        f"Share of the attainable range that the mix gives each stakeholder: {told}.",
        "The further right, the more of its attainable range a stakeholder gets. "
        "Shares have no unit, so they can be set side by side; raw utilities cannot."
        + (f" {left} more are in the table." if left else ""),
        "Control: hollow marks are what was served, without the audited mix." if any_served else "",
        draw,
    )


def _stakeholders(part: UtilitiesPart) -> Table:
    return table(
        "Stakeholders",
        {"stakeholder": "l", "mix": "r", "share [95%]": "r", "as served": "r", "sd in a request": "r"},
        (
            (
                Cell(each.name, "strong"),
                number(each.mix),
                percent(each.share),
                percent(each.served) if each.served is not None else Cell("–", "faint"),
                number(each.within_sd, 3),
            )
            for each in part.stakeholders
        ),
        note="mix: mixing weights, absolute values summing to 1. share: 0% is the worst slate that the candidates "
        "allow, 100% the best. sd: raw utility, among the candidates of one request.",
    )


def _weights(part: UtilitiesPart) -> tuple[Table | Text, ...]:
    """The weights that everything rests on, one line a feature that anybody weighs."""
    features = {name: None for each in part.stakeholders for name, weight in each.weights.items() if weight}
    shown = part.stakeholders[:6]
    order = sorted(features, key=lambda name: -max(abs(each.weights.get(name, 0.0)) for each in part.stakeholders))
    made: list[Table | Text] = []
    if order:
        rest = f" {len(part.stakeholders) - 6} more stakeholders are in the JSON." if len(part.stakeholders) > 6 else ""
        made.append(
            table(
                "Weights",
                [("feature", "l"), *((each.name, "r") for each in shown)],
                (
                    (
                        name,
                        *(
                            Cell(number(weight), "bad" if weight < 0 else "plain") if weight else Cell("0", "faint")
                            for weight in (each.weights.get(name, 0.0) for each in shown)
                        ),
                    )
                    for name in order
                ),
                note="Largest first; features that nobody weighs are left out." + rest,
                shown=10,
            )
        )
    for each in part.stakeholders:
        if each.missing:
            found = f"{each.name} also weighs what no candidate of the pool has a value of: {some(each.missing, 20)}."
            made.append(Text(found))
    return tuple(made)
