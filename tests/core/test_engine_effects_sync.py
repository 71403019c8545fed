"""Side effects that the response waits for, and what is refused. Time is virtual."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from toys import Log, effect_entries, now, seconds, serve, toy

from candidate_pipeline import (
    App,
    MisconfigurationError,
    RequestError,
    RunPolicy,
    SpecError,
    StageOptions,
)
from candidate_pipeline.engine.background import SideEffectCounts

pytestmark = pytest.mark.usefixtures("logs")


# Before the response


def test_sync_waits_and_shows(make: Any) -> None:
    """The response waits for sync side effects, all at once, and has a record of each with its own time."""
    first, second = Log([ValueError("no")], takes=1), Log(takes=5)
    policies = {
        "first": RunPolicy(sync=True, backoff=seconds(1)),
        "second": RunPolicy(sync=True),
    }
    app = toy(make, second.component(make, "second"), first.component(make, "first"), run=policies)

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            assert now() == 5
            assert outcome.elapsed_ms == 5000
            found = [entry for entry in outcome.trace if entry.stage == "side_effects"]
            assert [(entry.component, entry.status, entry.elapsed_ms, entry.rows_in) for entry in found] == [
                ("second", "ok", 5000, 3),
                ("first", "ok", 3000, 3),
            ]
            assert app.runtime.background.counts()["first"] == SideEffectCounts(done=1, retried=1)

    serve(main)


def test_sync_that_fails_is_skipped_by_default(make: Any) -> None:
    """A sync side effect that is given up leaves the response as it is, and the trace says why."""
    log = Log([OSError("disk full")] * 3)
    app = toy(make, log.component(make), run={"log": RunPolicy(sync=True, retries=1, backoff=seconds(1))})
    with app:
        outcome = app["toy"].run_sync()
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert effect_entries(outcome) == [("log", "skipped", "OSError: disk full")]


def test_sync_may_fail_the_request(make: Any) -> None:
    """With `on_error = "fail"` the error names the side effect and has the whole trace; the others are finished."""
    log, other, after = Log([OSError("disk full")]), Log(takes=5), Log()
    policies = {
        "log": RunPolicy(sync=True, retries=0, on_error="fail"),
        "other": RunPolicy(sync=True),
    }
    app = toy(make, log.component(make), other.component(make, "other"), after.component(make, "after"), run=policies)

    async def main() -> None:
        async with app:
            with pytest.raises(RequestError) as caught:
                await app["toy"].run()
        error = caught.value
        assert str(error) == "pipeline 'toy': side effect log (ToySideEffect) failed: OSError: disk full"
        assert isinstance(error.__cause__, OSError)
        assert [entry.component for entry in error.trace] == ["source", "top", "log", "other"]
        assert effect_entries(error) == [("log", "skipped", "OSError: disk full"), ("other", "ok", "")]

    serve(main)
    assert len(other.done) == len(after.done) == 1


@pytest.mark.parametrize("error", [RequestError("unknown viewer"), MisconfigurationError("no such table")])
def test_sync_never_degrades_a_wrong_request(make: Any, error: Any) -> None:
    """What no policy excuses is not excused here, and tried once only."""
    log = Log([error])
    app = toy(make, log.component(make), run={"log": RunPolicy(sync=True)})
    with app, pytest.raises(type(error)) as caught:
        app["toy"].run_sync()
    assert caught.value is error
    assert caught.value.__notes__ == ["raised by log (ToySideEffect) in side_effects of pipeline 'toy'"]
    assert len(log.tries) == 1
    if isinstance(error, RequestError):
        assert effect_entries(error) == [("log", "skipped", "unknown viewer")]


@pytest.mark.parametrize(
    ("policy", "late", "wrong"),
    [
        (RunPolicy(on_error="fail", on_timeout="skip"), False, True),
        (RunPolicy(on_error="skip", on_timeout="fail"), True, False),
        (RunPolicy(on_error="fail"), True, True),
        (RunPolicy(on_timeout="fail"), True, False),
    ],
)
def test_sync_tells_timeouts_from_errors(make: Any, policy: RunPolicy, late: bool, wrong: bool) -> None:
    """`on_timeout` is for the engine's limits, not for a `TimeoutError` that a side effect met."""
    for log, fails in ((Log(takes=60), late), (Log([TimeoutError("socket")]), wrong)):
        policies = {"log": attrs.evolve(policy, sync=True, retries=0, timeout=seconds(2))}
        app = toy(make, log.component(make), run=policies)

        async def main(app: App = app, fails: bool = fails) -> None:
            async with app:
                if fails:
                    with pytest.raises(RequestError, match=r"side effect log .* failed: (timed out|TimeoutError: so)"):
                        await app["toy"].run()
                else:
                    assert effect_entries(await app["toy"].run())[0][1] == "skipped"

        serve(main)


@pytest.mark.parametrize(
    ("given_", "end"),
    [
        ({"deadline": seconds(3)}, 3),
        ({"stages": {"side_effects": StageOptions(timeout=seconds(2))}}, 2),
        ({"deadline": seconds(3), "stages": {"side_effects": StageOptions(reserve=seconds(2))}}, 1),
        ({"deadline": seconds(3), "stages": {"side_effects": StageOptions(timeout=seconds(2))}}, 2),
    ],
)
def test_sync_ends_with_the_request(make: Any, given_: Any, end: float) -> None:
    """Deadline and stage budget hold for sync side effects, retries included, and for no others."""
    waited, log = Log([ValueError("no")] * 9, takes=0.4), Log(takes=9)
    policies = {"waited": RunPolicy(sync=True, retries=50, backoff=seconds(0.01))}
    app = toy(make, waited.component(make, "waited"), log.component(make), run=policies, **given_)

    async def main() -> None:
        async with app:
            outcome = await app["toy"].run()
            assert now() <= end + 1e-9
            assert outcome.elapsed_ms <= end * 1000 + 1e-3
            assert effect_entries(outcome)[0][1] == "skipped"
        assert now() == 9

    serve(main)
    assert len(log.done) == 1


# What is refused, and the published semantics


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (RunPolicy(on_error="fail"), "E306 log: a side effect runs after the response, so its failure is only logged"),
        (RunPolicy(on_timeout="fail"), "E306 log: a side effect runs after the response"),
        (RunPolicy(sync=True, on_error="fallback:x"), "E306 log: a side effect"),
        (RunPolicy(sync=True, max_pending=3), "E311 log: max_pending has no effect: the response waits for it"),
    ],
)
def test_settings_that_do_nothing(make: Any, policy: RunPolicy, message: str) -> None:
    """Settings without effect are refused."""
    with pytest.raises(SpecError) as caught:
        toy(make, Log().component(make), run={"log": policy})
    assert message in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("no"), RequestError("unknown viewer"), MisconfigurationError("no table")])
def test_upstream_ignores_failures(make: Any, error: Any) -> None:
    """Under the published semantics nothing that a side effect does ends the request, waited for or not."""
    log = Log([error] * 6)
    app = toy(
        make,
        log.component(make),
        log.component(make, "waited"),
        semantics="upstream",
        run={name: RunPolicy(retries=0, sync=name == "waited" or None) for name in ("log", "waited")},
    )
    with app:
        outcome = app["toy"].run_sync()
    assert outcome.item_ids.tolist() == [1, 2, 3]
    assert [entry[:2] for entry in effect_entries(outcome)] == [("waited", "skipped")]
    assert len(log.tries) == 2
