"""A whole audit: every part or its reason, plain data, the same bits for the same seed."""

from __future__ import annotations

import json
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from stakeholder_pools import SEEDS, action_pool, action_utilities, make_pool, make_utilities

from candidate_pipeline.errors import DataError
from candidate_pipeline_stakeholder.audit import run
from candidate_pipeline_stakeholder.audit.estimates import Estimate, plain, tail
from candidate_pipeline_stakeholder.audit.record import Audit
from candidate_pipeline_stakeholder.audit.run import INTERRUPTED, PARTS, QUICK, Effort, run_audit, sample
from candidate_pipeline_stakeholder.generating import generate
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import Utilities

TINY = attrs.evolve(
    QUICK, draws=10, seeds=2, regret_seeds=2, perturbations=2, sizes=(20,), regret_sizes=(0, 20), deltas=(0.0, 1.0),
    regret_deltas=(0.0, 1.0), mix_steps=2
)  # fmt: skip


def audit(utilities: Utilities, pool: Pool, **more: Any) -> Audit:
    """A tiny audit, checked to be plain data without NaN and to account for every part."""
    found = run_audit(utilities, pool, effort=TINY, **more)
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text) == found.as_dict()
    for part in PARTS:
        assert (getattr(found, part) is None) == (part in found.reasons), part
    return found


def test_an_audit_of_actions_is_whole() -> None:
    """On predicted actions every part is done, progress names each, and words are there."""
    seen: list[tuple[str, int, int]] = []
    pool = action_pool()
    pairs = generate(action_utilities(), pool, 50)
    found = run_audit(
        action_utilities(), pool, pairs=pairs, mix={"user": 1.0, "society": 2.0}, quick=True,
        progress=lambda part, done, total: seen.append((part, done, total)),
    )  # fmt: skip
    assert found.reasons == {}
    assert list(dict.fromkeys(part for part, _, _ in seen)) == list(PARTS)
    assert all(0 <= done <= total for _, done, total in seen)
    for part in PARTS:
        assert getattr(found, part) is not None
        assert all(isinstance(line, str) and "nan" not in line for line in getattr(found, part).words)
    assert found.config["mix"] == pytest.approx({"user": 1 / 3, "platform": 0.0, "society": 2 / 3})
    assert found.config["size"] == 8  # what was served
    assert found.disagreement is not None
    assert found.disagreement.labels
    assert found.utilities is not None
    assert found.frontier is not None
    for place, each in enumerate(found.utilities.stakeholders):
        assert each.share == found.frontier.chosen.share[place]
        assert found.frontier.served is not None
        assert each.served == found.frontier.served.share[place]
        assert each.worst < each.mean < each.best
    assert found == run_audit(action_utilities(), pool, pairs=pairs, mix={"user": 1.0, "society": 2.0}, quick=True)
    assert found != run_audit(
        action_utilities(), pool, pairs=pairs, mix={"user": 1.0, "society": 2.0}, quick=True, seed=1
    )


@given(SEEDS)
@settings(max_examples=8, deadline=None)
def test_any_pool_can_be_audited_twice_alike(seed: int) -> None:
    """Random pools give plain records, and the same ones again."""
    pool, utilities = make_pool(seed, coarse=bool(seed % 2)), make_utilities(seed, stakeholders=1 + seed % 4)
    assert audit(utilities, pool, seed=seed) == audit(utilities, pool, seed=seed)


def test_the_order_of_rows_does_not_matter_for_distinct_rows() -> None:
    """Shuffling a pool's rows changes nothing that is not sampled by row."""
    pool = make_pool(5, requests=3)
    order = np.random.default_rng(1).permutation(len(pool))
    one, other = (audit(make_utilities(5), each, parts=("utilities", "alignment")) for each in (pool, pool.take(order)))
    assert one.utilities is not None
    assert other.utilities is not None
    for before, after in zip(one.utilities.stakeholders, other.utilities.stakeholders, strict=True):
        assert before.share.value == pytest.approx(after.share.value)
        assert before.worst == pytest.approx(after.worst)


@pytest.mark.parametrize("normalise", ["request", "pool", "none"])
def test_every_normalisation_can_be_audited(normalise: str) -> None:
    """All three ways of the scorer go through every part."""
    assert audit(make_utilities(2), make_pool(2), normalise=normalise, delta=0.4).reasons == {}


HOSTILE: dict[str, tuple[Pool, Utilities, set[str]]] = {
    "one row": (
        Pool.of(("f0",), [[1.0]]),
        make_utilities(0, features=1),
        {"disagreement", "alignment", "sensitivity", "recovery", "frontier", "regret"},
    ),
    "constant features": (
        Pool.of(("f0", "f1", "f2"), np.full((20, 3), 0.3), request=np.arange(20) // 5, group=["x", "y"] * 10),
        make_utilities(0),
        {"sensitivity", "recovery", "frontier", "regret"},
    ),
    "requests of one row": (
        make_pool(0, rows=1, requests=9),
        make_utilities(0),
        {"disagreement", "alignment", "sensitivity", "recovery", "frontier", "regret"},
    ),
    "one stakeholder": (
        make_pool(0),
        make_utilities(0, stakeholders=1),
        {"disagreement", "alignment", "regret"},
    ),
    "one group": (
        Pool.of(("f0", "f1", "f2"), make_pool(0).values, group=["x"] * len(make_pool(0))), make_utilities(0), set()
    ),
    "no groups": (Pool.of(("f0", "f1", "f2"), make_pool(0).values), make_utilities(0), set()),
    "huge values": (Pool.of(("f0", "f1", "f2"), make_pool(0).values * 2e8), make_utilities(0), set()),
    "tiny values": (Pool.of(("f0", "f1", "f2"), make_pool(0).values * 1e-12), make_utilities(0), set()),
    "far from zero": (Pool.of(("f0", "f1", "f2"), make_pool(0).values * 1e-3 + 1e6), make_utilities(0), set()),
    "two rows": (Pool.of(("f0", "f1", "f2"), make_pool(0).values[:2]), make_utilities(0), {"frontier", "regret"}),
    "identical stakeholders": (
        make_pool(0), Utilities(("f0", "f1", "f2"), ("anna", "bert"), np.ones((2, 3))), set()
    ),
    "an empty stakeholder": (
        make_pool(0), Utilities(("f0", "f1", "f2"), ("anna", "bert"), [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), set()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pools_get_reasons_not_crashes(name: str) -> None:
    """What cannot be done says why; the rest is done, without NaN and without numpy's complaints."""
    pool, utilities, missing = HOSTILE[name]
    with np.errstate(over="raise"):
        found = audit(utilities, pool)
    assert set(found.reasons) == missing
    assert all(reason for reason in found.reasons.values())


def test_empty_stakeholders_never_win() -> None:
    """A stakeholder without a weight has no share, no regret and no recovery, and is told of."""
    pool, utilities, _ = HOSTILE["an empty stakeholder"]
    found = audit(utilities, pool)
    assert found.utilities is not None
    assert found.utilities.stakeholders[1].share == Estimate(None)
    assert found.recovery is not None
    assert found.recovery.names == ("anna",)
    assert any("bert" in line and "same for all rows" in line for line in found.utilities.words)


def test_features_are_matched_by_name() -> None:
    """Weights go to features of their name; what either side lacks is warned of."""
    utilities = Utilities.of({"anna": {"f2": 1.0, "gone": 2.0}, "bert": {"f0": 1.0}})
    found = audit(utilities, make_pool(0))
    assert any("gone" in line for line in found.warnings)
    assert any("No stakeholder weighs f1" in line for line in found.warnings)
    assert any("requests" in line for line in found.warnings)
    assert found.utilities is not None
    assert found.utilities.stakeholders[0].missing == ("gone",)
    assert found.utilities.stakeholders[0].weights == {"f0": 0.0, "f1": 0.0, "f2": 1.0}
    with pytest.raises(DataError, match="no feature of the utilities"):
        run_audit(Utilities.of({"anna": {"gone": 1.0}}), make_pool(0))


def test_unsettled_fits_are_warned_of() -> None:
    """Weights whose fit did not converge are audited, with a warning."""
    utilities = Utilities(("f0",), ("anna", "bert"), [[1.0], [2.0]], None, {"anna": {"separable": True}})
    found = audit(utilities, make_pool(0))
    assert any("fit of anna" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"mix": {"nobody": 1.0}}, "nobody"),
        ({"size": 0}, "at least one row"),
        ({"delta": 1.5}, "knob"),
        ({"normalise": "rank"}, "normalisation"),
        ({"seed": -1}, "seed"),
        ({"seeds": 0}, "seed"),
        ({"parts": ["everything"]}, "no part everything"),
    ],
)
def test_wrong_options_are_refused(more: dict[str, Any], told: str) -> None:
    """Each is named before any work is done."""
    with pytest.raises(DataError, match=told):
        run_audit(make_utilities(0), make_pool(0), **more)


def test_parts_can_be_chosen() -> None:
    """The others are left out, and the ones that run are as in a whole audit."""
    found = audit(make_utilities(0), make_pool(0), parts=("regret",))
    assert found.regret == audit(make_utilities(0), make_pool(0)).regret
    assert found.reasons["alignment"] == "not asked for"


def test_an_interrupted_audit_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in one part leaves those before it, if that was asked for, and else passes through."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "frontier", interrupted)
    found = run_audit(make_utilities(0), make_pool(0), effort=TINY, keep_interrupted=True)
    assert found.alignment is not None
    assert found.reasons == {"frontier": INTERRUPTED, "regret": INTERRUPTED}
    with pytest.raises(KeyboardInterrupt):
        run_audit(make_utilities(0), make_pool(0), effort=TINY)


def test_large_pools_are_sampled() -> None:
    """Requests and rows beyond the limits are left out at random, served rows last; small pools stay as they are."""
    pool = make_pool(3, requests=9, rows=20)
    assert sample(pool, 100, 100, 0) == (pool, "")
    kept, told = sample(pool, 4, 6, 0)
    assert kept.request_count == 4
    assert np.bincount(kept.request).max() <= 6
    assert "4 of 9 requests" in told
    for request, rows in zip(kept.request_ids, kept.requests(), strict=True):
        before = pool.request_ids[pool.request] == request
        assert kept.selected[rows].sum() == min(6, int((before & pool.selected).sum()))
    found = run_audit(make_utilities(3), pool, effort=attrs.evolve(TINY, max_requests=4, max_rows=6))
    assert any("sample" in line for line in found.warnings)
    assert found.config["rows"] == len(kept)
    assert found.config["rows_given"] == len(pool)


def test_seeds_can_be_set() -> None:
    """The number of seeds goes to recovery and regret."""
    found = run_audit(make_utilities(0), make_pool(0), effort=TINY, seeds=3, parts=("recovery", "regret"))
    assert found.recovery is not None
    assert found.regret is not None
    assert found.recovery.seeds == found.regret.seeds == 3
    assert Effort() != QUICK


def test_plain_data_holds_no_nan() -> None:
    """Arrays, numbers and nested records become JSON; what is not finite becomes null."""
    given_ = {
        "a": np.array([1.0, np.nan]),
        "b": np.float64(np.inf),
        "c": (True, np.int64(3)),
        "d": Estimate(0.5),
        4: None,
    }
    assert plain(given_) == {
        "a": [1.0, None], "b": None, "c": [True, 3], "d": {"value": 0.5, "low": None, "high": None}, "4": None
    }  # fmt: skip
    assert Estimate.of(np.nan, [1.0]) == Estimate(None)
    assert Estimate.of(1.0, [np.nan]) == Estimate(1.0)


def test_intervals_of_few_things_are_wider() -> None:
    """Percentiles of draws from n things go as far out as Student's t and the lost degree of freedom ask for."""
    assert tail() == pytest.approx(0.025)
    assert tail(1) == 0
    assert tail(10) == pytest.approx(0.00855, abs=1e-5)  # Phi(-2.262 * sqrt(10 / 9))
    assert tail(100_000) == pytest.approx(0.025, abs=1e-5)
    draws = np.arange(1001.0)
    assert Estimate.of(500, draws).low == pytest.approx(25)
    few = Estimate.of(500, draws, 10)
    assert few.low == pytest.approx(8.55, abs=0.01)
    assert few.high == pytest.approx(991.45, abs=0.01)
