"""A request replayed again and again, with components replaced; and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import attrs
import pytest
from replay_shop import CALLED, TASTE, WHO, Odd, Push, Scarce, Weigh, again, record, shop
from replays import differences

from candidate_pipeline import (
    MisconfigurationError,
)
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.testing import TopScore, run_in_virtual_time
from candidate_pipeline.what_if.replay import Replayer, replay


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    """Start every test with nothing called."""
    CALLED.clear()


def test_a_replayer_replaces_components() -> None:
    """Expect a run with a changed scorer to be what a replay of a changed pipeline is, without running those before."""
    _, capture = record(shop())
    wanted = again(shop(scorers=[Weigh(), Push(by=7.0)]), capture)
    CALLED.clear()

    async def main() -> list[Any]:
        async with shop() as app:
            replayer = Replayer(app, capture)
            found = [await replayer.run(), await replayer.run({"push": Push(by=7.0)}), await replayer.run()]
            assert CALLED == ["push"]
            found.append(await replayer.run({"weigh": Weigh(-1.0)}))
            CALLED.clear()
            last = await replayer.run({"weigh": Weigh(-1.0), "top_score": TopScore(1)})
            assert CALLED == ["weigh"]  # what follows was asked the same in the run before
            assert last.live == ()
            return found

    same, changed, back, weighed = run_in_virtual_time(main())
    assert not differences(changed, wanted)
    assert same.item_ids.tolist() == back.item_ids.tolist() == [6, 5, 4]
    assert weighed.item_ids.tolist() == [1, 3, 4]


def test_a_replayer_without_memory_runs_every_scorer() -> None:
    """Expect `remember=False` to run the scorers every time."""
    _, capture = record(shop())

    async def main() -> None:
        async with shop() as app:
            replayer = Replayer(app, capture, remember=False)
            await replayer.run()
            await replayer.run()

    run_in_virtual_time(main())
    assert CALLED == ["weigh", "push"] * 2


def test_a_replayer_refuses_what_cannot_replace() -> None:
    """Expect unknown names, components of another kind and other writes to be told of."""
    _, capture = record(shop())

    async def main() -> None:
        async with shop() as app:
            replayer = Replayer(app, capture)
            for changes, said in (
                ({"weight": Weigh()}, "no component 'weight' to replace: did you mean 'weigh'"),
                ({"weigh": Scarce()}, "a Scarce cannot replace weigh"),
                ({"push": Odd()}, "a Odd cannot replace push: it writes other keys"),
            ):
                with pytest.raises(MisconfigurationError, match=said):
                    await replayer.run(changes)
            with pytest.raises(MisconfigurationError, match="live: wanted one of"):
                Replayer(app, capture, live=_wrong())

    run_in_virtual_time(main())


def _wrong() -> Literal["never"]:
    return "sometimes"  # type: ignore[return-value]  # what is refused


def test_pipelines_and_inputs_must_fit() -> None:
    """Expect a capture of another pipeline, or without an input, to be refused."""
    _, capture = record(shop())
    with pytest.raises(MisconfigurationError, match="no pipeline named 'other'"):
        again(shop(), attrs.evolve(capture, pipeline="other"))
    with pytest.raises(CaptureError, match=r"needs the input 'extra' \(re\.taste\), which the capture lacks"):
        again(shop(inputs={"who": WHO, "extra": TASTE}, query_hydrators=[]), capture)


def test_closed_applications_are_refused() -> None:
    """Expect a replay in an application that is not open to say so."""
    _, capture = record(shop())
    with pytest.raises(MisconfigurationError, match="not open"):
        asyncio.run(replay(shop(), capture))
