"""The numbers of the feed's scorers that a search for the smallest change starts from."""

from __future__ import annotations

from types import SimpleNamespace

import attrs
import numpy as np
import pytest

from candidate_pipeline import ITEM_ID, Candidates, compose
from candidate_pipeline.testing import StaticSource, run_in_virtual_time
from candidate_pipeline.what_if.swap import SwapResult, smallest_swap
from candidate_pipeline.what_if.swap_options import NumericOption, numeric_options
from candidate_pipeline_feed.actions import PREDICTABLE
from candidate_pipeline_feed.keys import AUTHOR_ID, IN_NETWORK, PREDICTIONS
from candidate_pipeline_feed.presets import preset
from candidate_pipeline_feed.scorers.author_diversity import AuthorDiversity
from candidate_pipeline_feed.scorers.dwell_regret import ENGAGEMENT, REGRET, DwellRegret
from candidate_pipeline_feed.scorers.mpn import MultipliedNet
from candidate_pipeline_feed.scorers.out_of_network import OutOfNetwork
from candidate_pipeline_feed.scorers.weighted import Weighted
from candidate_pipeline_feed.selectors import TopK

HEADS = ("favorite", "reply", "report")
TABLE = Candidates.of(
    ITEM_ID([1, 2, 3]),
    AUTHOR_ID([7, 7, 8]),
    IN_NETWORK([True, True, False]),
    PREDICTIONS(np.array([[0.5, 0.02, 0], [0.1, 0.04, 0], [0.3, 0.03, 0]], np.float32), labels=HEADS),
)


@attrs.frozen
class Again:
    """Ranks the table with scorers replaced."""

    scorers: tuple[tuple[str, object], ...]

    async def run(self, components: dict[str, object]) -> object:
        """The answer."""
        scorers = [(name, components.get(name, scorer)) for name, scorer in self.scorers]
        selector = ("top", components.get("top", TopK(3)))
        app = compose("feed", sources=[("table", StaticSource(TABLE))], scorers=scorers, selector=selector)
        async with app:
            return await app["feed"].run()


def options(*scorers: tuple[str, object]) -> dict[str, NumericOption]:
    """The numbers of some scorers, whatever they read."""
    phases = {
        "scorers": [[SimpleNamespace(name=name, component=scorer)] for name, scorer in scorers],
        "selector": [[SimpleNamespace(name="top", component=TopK())]],
    }
    return {option.name: option for option in numeric_options(SimpleNamespace(phases=phases))}  # type: ignore[arg-type]  # all that is asked of a plan


def test_weights_in_effect_are_those_of_the_preset_and_what_is_set() -> None:
    """Expects every predictable action, each with the weight that scores are made with, and the preset's numbers."""
    published = preset("2026-08-12")
    found = options(("weighted", Weighted(weights={"reply": 9.0})))
    weights = {name.rpartition(".")[2]: option.value for name, option in found.items() if ".weights." in name}
    assert weights == {head: {**published.weights, "reply": 9.0}.get(head, 0.0) for head in PREDICTABLE}
    assert found["weighted.offset"].value == published.offset
    assert found["weighted.mutual_reply_boost"].value == published.mutual_reply_boost
    assert found["weighted.max_viewer_followers"].value == published.max_viewer_followers
    changed = found["weighted.weights.quote"].changed(2.5)
    assert changed.resolved.weights == {**published.weights, "reply": 9.0, "quote": 2.5}
    assert found["weighted.offset"].changed(1.5).resolved.offset == 1.5
    with pytest.raises(ValueError, match=r"weighted\.offset: wanted at least 0, found -1\.0"):
        found["weighted.offset"].changed(-1)


def test_options_inside_options_and_published_tables() -> None:
    """Expects those of the two rules inside the multiplied net, and the alphas and weights of dwell and regret."""
    found = options(("weighted", Weighted()), ("mpn", MultipliedNet()), ("dwell", DwellRegret(alphas={"reply": 2.0})))
    assert found["mpn.diversity.decay"].changed(0.25).diversity == AuthorDiversity(decay=0.25)
    assert found["mpn.out_of_network.factor"].value == 0.75
    alphas = {name.rpartition(".")[2]: each.value for name, each in found.items() if name.startswith("dwell.alphas.")}
    assert alphas == {**ENGAGEMENT, "reply": 2.0}
    assert found["dwell.weights.report"].value == REGRET["report"]
    assert found["dwell.weights.report"].changed(-1.0).weights == {"report": -1.0}


def test_author_diversity_and_the_network_among_the_ways_to_swap() -> None:
    """Expects the published scorers' options to change the order, each verified by a run with its value."""
    scorers = (
        ("weighted", Weighted(preset="none", weights={"favorite": 1.0, "reply": 5.0}, offset=0.0)),
        ("diversity", AuthorDiversity(decay=0.5, floor=0.25)),
        ("network", OutOfNetwork(factor=0.9)),
    )
    # .6, (.1 + .2) * .625 and (.3 + .15) * .9
    result: SwapResult = run_in_virtual_time(smallest_swap(Again(scorers), 3, 2))  # type: ignore[arg-type]  # untyped answers
    found = {option.option: option for option in result.found}
    assert (result.ahead, result.behind) == ("3", "2")
    assert found["network.factor"].boundary == pytest.approx(0.1875 / 0.45, rel=1e-5)
    # With .1 w + .2 = .5 w + .1 item 2 becomes the first of its author, and is multiplied with 1: a jump.
    assert found["weighted.weights.favorite"].boundary == pytest.approx(0.25, rel=1e-5)
    assert "diversity.decay" not in found
