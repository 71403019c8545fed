"""An audit as a report: what came out, in a few sentences, and the sections it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from candidate_pipeline_stakeholder.audit.document import Document, listed, number, plural, share, short
from candidate_pipeline_stakeholder.audit.record import (
    AlignedPair,
    Audit,
    Frontier,
    FrontierPoint,
    LeftOut,
    RegretPoint,
)
from candidate_pipeline_stakeholder.audit.sections_alignment import alignment_section
from candidate_pipeline_stakeholder.audit.sections_disagreement import disagreement_section
from candidate_pipeline_stakeholder.audit.sections_frontier import frontier_section
from candidate_pipeline_stakeholder.audit.sections_recovery import noise_text, recovery_section, unidentified
from candidate_pipeline_stakeholder.audit.sections_regret import cost_of, regret_section
from candidate_pipeline_stakeholder.audit.sections_sensitivity import sensitivity_section
from candidate_pipeline_stakeholder.audit.sections_utilities import utilities_section
from candidate_pipeline_stakeholder.audit.wording import LONG, interval, mix_text, percent, plain, some, value

TITLE: Final = "Stakeholder audit"
LEVEL: Final = 0.03
"""Shares that differ by less are told as about the same."""
ZERO: Final = "zero pairs"
SAME: Final = 1e-12
"""Differences of shares below this are rounding."""
SECTIONS: Final = (
    utilities_section,
    alignment_section,
    disagreement_section,
    frontier_section,
    regret_section,
    sensitivity_section,
    recovery_section,
)


def build_document(audit: Audit, *, about: str = "", provenance: Mapping[str, Any] | None = None) -> Document:
    """The report of an audit.

    Args:
        audit: What was found.
        about: What was audited, in a line.
        provenance: What it was made with, beside the audit's own configuration.
    """
    return Document(
        title=TITLE,
        about=about,
        findings=findings(audit),
        warnings=audit.warnings,
        sections=tuple(section(audit) for section in SECTIONS),
        provenance={**(provenance or {}), "audit": dict(audit.config)},
    )


def findings(audit: Audit) -> tuple[str, ...]:
    """What came out, three to five sentences, the most important first."""
    found = (_given(audit), _harm(audit), _unbeaten(audit), _left_out(audit), _learnt(audit))
    return tuple(each for each in found if each)


def called(name: str) -> str:
    """A name in a sentence."""
    return short(name, LONG)


def _given(audit: Audit) -> str:
    """Who gets most and least of what they could have."""
    part = audit.utilities
    known = [each for each in (part.stakeholders if part else ()) if each.share.value is not None]
    if not known or part is None:
        return ""
    mix = mix_text({each.name: each.mix for each in part.stakeholders})
    most, least = (choose(known, key=lambda each: value(each.share)) for choose in (max, min))
    served = [value(each.served) for each in known if each.served is not None and each.served.value is not None]
    if not served:
        was = ""
    elif share(min(served)) == share(max(served)):
        was = f" What was served gave {share(served[0])}{' to each' if len(served) > 1 else ''}."
    else:
        was = f" What was served gave from {share(min(served))} to {share(max(served))}."
    if len(known) == 1:
        return f"The mix ({mix}) gives {called(most.name)} {percent(most.share)} of what it could have.{was}"
    if share(value(most.share)) == share(value(least.share)):
        return f"The mix ({mix}) gives every stakeholder {share(value(least.share))} of what it could have.{was}"
    if value(most.share) - value(least.share) < LEVEL:
        ends = (f"{share(value(each.share))} ({called(each.name)})" for each in (least, most))
        return (
            f"The mix ({mix}) gives all stakeholders about the same part of what they could have, from "
            f"{' to '.join(ends)}.{was}"
        )
    return (
        f"The mix ({mix}) gives {called(most.name)} most, {percent(most.share)} of what it could have, and "
        f"{called(least.name)} least, {percent(least.share)}.{was}"
    )


def _harm(audit: Audit) -> str:
    """Whom more data for one harms, and whether the prediction held."""
    part = audit.alignment
    if part is None or not part.pairs:
        return ""
    harms = sorted((each for each in part.pairs if each.verdict == "harms"), key=lambda each: value(each.cosine))
    checked = (
        f" Selecting anew confirmed the predicted direction of {part.agree:,} of {plural(part.checked, 'strong pair')}."
        if part.checked
        else ""
    )
    if not harms:
        known = [each for each in part.pairs if each.cosine.value is not None]
        if not known:
            return ""
        closest = min(known, key=lambda each: value(each.cosine))
        sure = all(each.verdict == "helps" for each in part.pairs)
        words = (
            "Selecting harder for one stakeholder at first helps every other"
            if sure
            else "No stakeholder clearly harms another"
        )
        pair = f"{called(closest.target)} and {called(closest.other)}"
        alone = f" (of their weights alone {plain(closest.weight_cosine)})" if closest.weight_cosine is not None else ""
        lowest = f"the lowest cosine through the pool is {interval(closest.cosine)}, of {pair}{alone}"
        return f"{words}: {lowest}.{checked}"
    worst = harms[0]
    others = [each for each in harms[1:] if {each.target, each.other} != {worst.target, worst.other}]
    count = _pairs_of(others)
    rest = f" The same holds of {plural(count, 'other pair')}." if count else ""
    return f"{_against(worst)}{rest}{checked}"


def _against(pair: AlignedPair) -> str:
    by_weights = value(pair.weight_cosine)
    contrary = (
        f", though the cosine of their weights alone is {number(by_weights, sign=True)}" if by_weights > 0 else ""
    )
    return (
        f"More data for {called(pair.target)} harms {called(pair.other)}, and the other way round: selecting harder "
        f"for one takes from the other (cosine through the pool {interval(pair.cosine)}){contrary}."
    )


def _pairs_of(pairs: list[AlignedPair]) -> int:
    return len({frozenset((each.target, each.other)) for each in pairs})


def _unbeaten(audit: Audit) -> str:
    """Whether the audited point could be had better for all, and what diversity costs."""
    part = audit.frontier
    if part is None or len(part.delta_points) < 2:
        return ""
    last = part.delta_points[-1]
    paid = [
        (value(part.chosen.share[at]) - value(last.share[at]), name)
        for at, name in enumerate(part.names)
        if part.chosen.share[at].value is not None and last.share[at].value is not None
    ]
    here = _beside(part)
    if not paid or last.groups is None or part.chosen.groups is None:
        return f"{here}."
    most, name = max(paid)
    if most <= 0:
        return f"{here}; turning it all the way up takes nothing from anybody."
    before, after = plain(part.chosen.groups), plain(last.groups)
    does = (
        f"leaves the groups in a slate of {part.size} at {after}"
        if before == after
        else f"changes the groups in a slate of {part.size} from {before} to {after}"
    )
    cost = number(100 * most, 0)
    points = "1 point" if cost == "1" else f"{cost} points"
    return f"{here}. Turned all the way up, it {does} and costs {called(name)} most, {points} of its range."


def _beside(part: Frontier) -> str:
    """Whether another knob gives every stakeholder as much and one more, and what that costs in groups."""

    def gains(point: FrontierPoint) -> list[float]:
        shares = zip(point.share, part.chosen.share, strict=True)
        return [value(other) - value(own) for other, own in shares if own.value is not None]

    def more_groups(point: FrontierPoint) -> float:
        return (
            0.0
            if point.groups is None or part.chosen.groups is None
            else value(point.groups) - value(part.chosen.groups)
        )

    as_good = [point for point in part.delta_points if all(gain >= -SAME for gain in gains(point))]
    better = [point for point in as_good if any(gain > SAME for gain in gains(point))]
    free = [point for point in better if more_groups(point) >= -SAME]
    if free:
        best = max(free, key=lambda point: sum(gains(point)))
        return (
            f"The diversity knob at {plain(best.delta)} is at least as good for every stakeholder as the one in use, "
            "with as many groups, and better for one"
        )
    if better:
        best = max(better, key=lambda point: sum(gains(point)))
        return (
            f"The diversity knob at {plain(best.delta)} would give every stakeholder as much as the one in use, and "
            f"one of them more, with fewer groups in a slate ({plain(best.groups)})"
        )
    if any(more_groups(point) > SAME for point in as_good):
        return "Another diversity knob shows more groups than the one in use and costs nobody anything"
    return "No other diversity knob is better for all stakeholders than the one in use"


def _left_out(audit: Audit) -> str:
    """What the stakeholder pays that is hurt most by being left out, against all controls."""
    part = audit.regret
    known = [(cost, each) for each in (part.stakeholders if part else ()) if (cost := cost_of(each)) is not None]
    if not known:
        return ""
    cost, each = max(known, key=lambda pair: pair[0])
    out = _point(each, ZERO)
    if cost <= 0 or out is None:
        return "Leaving a stakeholder out of the mix costs none of them anything on these points."
    others = [
        f"{words} {share(value(found.regret))}"
        for words, condition in (("with its own utility", "true utility"), ("with no model at all", "no model"))
        if (found := _point(each, condition)) and found.regret.value is not None
    ]
    text = f"Leaving {called(each.name)} out costs it most: a regret of {share(value(out.regret))} of its range"
    return f"{text}{f' ({listed(others)})' if others else ''}.{_worth(each)}"


def _worth(each: LeftOut) -> str:
    """What its smallest number of pairs is worth, against the controls, in a sentence."""
    own = min(
        (point for point in each.points if point.condition == "pairs"), key=lambda point: point.pairs, default=None
    )
    if own is None or own.regret.value is None:
        return ""
    controls = {
        f"{own.pairs:,} pairs of others": _point(each, "wrong pairs", own.pairs),
        "none": _point(each, ZERO),
        "an untrained vector of signs": _point(each, "untrained signed start"),
    }
    found = {name: point for name, point in controls.items() if point is not None and point.regret.value is not None}
    against = dict(found)
    if (blank := _point(each, "no model")) is not None and blank.regret.value is not None:
        against["no model at all"] = blank  # told before
    worse = [name for name, point in against.items() if value(point.regret) <= own.regret.value]
    apart = all(
        own.regret.high is not None and point.regret.low is not None and own.regret.high < point.regret.low
        for point in against.values()
    )
    verdict = (
        f"no better than with {listed(worse)}"
        if worse
        else "better than every control"
        if apart
        else "not clearly better than the controls"
    )
    told = listed(f"with {name} {share(value(point.regret))}" for name, point in found.items())
    return f" Learned from {plural(own.pairs, 'pair')} of its own it is {share(own.regret.value)}, {verdict}: {told}."


def _point(each: LeftOut, condition: str, pairs: int | None = None) -> RegretPoint | None:
    return next(
        (point for point in each.points if point.condition == condition and (pairs is None or point.pairs == pairs)),
        None,
    )


def _learnt(audit: Audit) -> str:
    """How many pairs it takes to learn the utilities, and how much hangs on single weights."""
    words = []
    part = audit.recovery
    if part is not None and part.needed:
        level = part.noises[0]
        here = [each for each in part.needed if (each.noise, each.flips) == level]
        most = max(part.sizes)
        enough = [each for each in here if each.pairs is not None]
        short = [each.stakeholder for each in here if each.pairs is None]
        if enough:
            largest = max(each.pairs or 0 for each in enough)
            every = not short and (audit.utilities is None or len(here) == len(audit.utilities.stakeholders))
            names = "every utility" if every else f"the utility of {some([each.stakeholder for each in enough])}"
            trace = ", though not its weights" if unidentified(part) else ""
            words.append(
                f"{largest:,} pairs are enough to learn {names} (correlation {number(part.wanted)} and above, "
                f"{noise_text(*level)}){trace}"
            )
        if short:
            words.append(f"{most:,} pairs are not enough for {some(short)}")
    noise = audit.sensitivity.simultaneous[-1] if audit.sensitivity and audit.sensitivity.simultaneous else None
    if noise is not None and noise.overlap.value is not None and noise.sigma > 0:
        words.append(
            f"weights that are all off by σ {number(noise.sigma)} replace {share(1 - noise.overlap.value)} of the slate"
        )
    text = "; ".join(words)
    return f"{text[0].upper()}{text[1:]}." if text else ""
