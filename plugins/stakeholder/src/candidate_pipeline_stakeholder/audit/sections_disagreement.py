"""How often stakeholders order two items differently."""

from __future__ import annotations

import math
from typing import Final

from candidate_pipeline_stakeholder.audit.document import (
    Cell,
    Figure,
    Section,
    Table,
    share,
    table,
)
from candidate_pipeline_stakeholder.audit.record import (
    Audit,
    Disagreement,
)
from candidate_pipeline_stakeholder.audit.wording import (
    ends,
    missing,
    percent,
    tidy,
    tone_of,
    value,
)

MOST_BARS: Final = 16


def disagreement_section(audit: Audit) -> Section:
    """How often stakeholders order two items differently."""
    title = "How often they disagree"
    part = audit.disagreement
    if part is None:
        return Section("disagreement", title, (), (missing(audit, "disagreement"),))
    if not part.pairs:
        return Section("disagreement", title, tidy(part.words), _labels(part))
    return Section("disagreement", title, tidy(part.words), (_bars(part), _table(part), *_labels(part)))


def _bars(part: Disagreement) -> Figure:
    order = sorted(part.pairs, key=lambda each: -value(each.share) if each.share.value is not None else 1.0)[:MOST_BARS]

    def draw(key: str, title: str, description: str) -> str:
        from candidate_pipeline_stakeholder.audit.plots import Bar, bars
        from candidate_pipeline_stakeholder.audit.svg import label

        rows = []
        for each in order:
            low, high = ends(each.share)
            expected = (100 * value(each.predicted), math.nan, math.nan)
            name = f"{label(each.one, 16)} – {label(each.other, 16)}"
            rows.append(Bar(name, 100 * value(each.share), 100 * low, 100 * high, beside=expected))
        return bars(
            rows,
            unit="pairs of items in a request ordered differently, %",
            key=key,
            title=title,
            description=description,
            reference=(50.0, "as if unrelated"),
        )

    told = "; ".join(f"{each.one} and {each.other} {share(value(each.share))}" for each in order)
    left = len(part.pairs) - len(order)
    return Figure(
        "disagreement-bars",
        "Pairs of items that two stakeholders order differently",
        f"Share of pairs ordered differently: {told}.",
        "0% means one ranking serves both, 50% that they have nothing to do with each other, 100% that one's best "
        "is the other's worst." + (f" {left} more are in the table." if left else ""),
        "Control: hollow marks are what the cosine through the pool says it would be if utilities were jointly normal.",
        draw,
    )


def _table(part: Disagreement) -> Table:
    order = sorted(part.pairs, key=lambda each: -value(each.share) if each.share.value is not None else 1.0)
    counted = f"{'all' if part.every else 'a sample of'} {part.counted:,} pairs"
    return table(
        "Disagreement",
        {"stakeholder": "l", "and": "l", "differ [95%]": "r", "from the cosine": "r", "whole pool": "r", "ties": "r"},
        (
            (
                Cell(each.one, "strong"),
                Cell(each.other, "strong"),
                percent(each.share),
                share(value(each.predicted)),
                percent(each.pooled),
                share(value(each.tied)),
            )
            for each in order
        ),
        note=f"Among {counted} within requests; bootstrap over {part.bootstrap}. whole pool: pairs from anywhere. "
        "ties: at least one of the two has no preference.",
    )


def _labels(part: Disagreement) -> tuple[Table, ...]:
    if not part.labels:
        return ()
    return (
        table(
            "Given pairs and utilities",
            {"pairs of": "l", "utility of": "l", "pairs": "r", "agree [95%]": "r"},
            (
                (
                    each.labels,
                    each.utility,
                    f"{each.pairs:,}",
                    Cell(percent(each.agree), "strong" if each.labels == each.utility else tone_of(0.0)),
                )
                for each in part.labels
            ),
            note="How often a utility orders the two sides as the stakeholder did who was asked. 50% is a coin's. "
            "Control: the other stakeholders' utilities on the same pairs.",
        ),
    )
