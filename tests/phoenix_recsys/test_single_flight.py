"""Single flight: concurrent callers of one key share one call."""

from __future__ import annotations

import concurrent.futures
import functools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from phoenix_recsys.single_flight import SingleFlight

LONG = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Crowd:
    """Callers of one key: one whose call lasts until it is let go, and others that wait for it."""

    def __init__(self, lead: Callable[[], Any], follow: Callable[[], Any], followers: int) -> None:
        self.flights: SingleFlight[str, Any] = SingleFlight()
        self._go = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(1 + followers)
        self.leader = self._pool.submit(self.flights.run, "key", lambda: (self._go.wait(LONG), lead())[1])
        until(lambda: len(self.flights) == 1)
        self.followers = [self._pool.submit(self.flights.run, "key", follow) for _ in range(followers)]
        until(lambda: self.flights.waiting("key") == followers)

    def land(self) -> None:
        """Let the first call end, and wait for all callers."""
        self._go.set()
        self._pool.shutdown()


def test_callers_at_the_same_time_share_one_call() -> None:
    """Those who come while a call runs get its very object, without a call of their own; nothing is kept after it."""
    made, others = object(), []
    crowd = Crowd(lambda: made, lambda: others.append(1), followers=5)
    crowd.land()
    assert all(caller.result() is made for caller in [crowd.leader, *crowd.followers])
    assert (others, len(crowd.flights), crowd.flights.shared, crowd.flights.waiting("key")) == ([], 0, 5, 0)
    assert crowd.flights.run("key", lambda: "anew") == "anew"


def test_an_error_goes_to_all_who_wait() -> None:
    """The leader's error reaches every caller; the next caller makes the call again."""

    def fail() -> None:
        raise ValueError("no weights")

    crowd = Crowd(fail, lambda: "mine", followers=3)
    crowd.land()
    errors = [caller.exception() for caller in [crowd.leader, *crowd.followers]]
    assert isinstance(errors[0], ValueError)
    assert all(error is errors[0] for error in errors)
    assert crowd.flights.run("key", lambda: "fine") == "fine"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_leader_leaves_nobody_waiting(interrupt: type[BaseException]) -> None:
    """An interrupt stays with the thread that it met; one of those who waited makes the call for the others."""
    calls = []

    def stop() -> None:
        raise interrupt

    def make() -> str:
        calls.append(threading.get_ident())
        return "made"

    crowd = Crowd(stop, make, followers=4)
    crowd.land()
    assert isinstance(crowd.leader.exception(), interrupt)
    assert [caller.result() for caller in crowd.followers] == ["made"] * 4
    assert 1 <= len(calls) <= 4
    assert len(crowd.flights) == 0


def test_other_keys_do_not_wait() -> None:
    """A call of one key runs while that of another has not ended, and a call may make other keys."""
    crowd = Crowd(lambda: 1, lambda: 2, followers=0)
    assert crowd.flights.run("other", lambda: crowd.flights.run("third", lambda: 3)) == 3
    assert len(crowd.flights) == 1
    crowd.land()


def test_a_call_that_asks_for_itself_is_refused() -> None:
    """A call that would wait for its own end raises instead, and leaves the key usable."""
    flights: SingleFlight[str, int] = SingleFlight()
    with pytest.raises(RuntimeError, match="making 'key' asks for itself"):
        flights.run("key", lambda: flights.run("key", lambda: 1))
    assert flights.run("key", lambda: 2) == 2
    assert (len(flights), flights.shared) == (0, 0)


def test_beside_a_cache_each_value_is_made_once() -> None:
    """Many threads that look into a cache, fly, and look again make each key once, whatever the order."""
    flights: SingleFlight[int, str] = SingleFlight()
    cache: dict[int, str] = {}
    made: Counter[int] = Counter()

    def make(key: int) -> str:
        if key not in cache:
            made[key] += 1  # one thread a key, or the count is wrong
            cache[key] = f"value {key}"
        return cache[key]

    def client(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(300):
            key = rng.randrange(40)
            found = cache.get(key) or flights.run(key, functools.partial(make, key))
            assert found == f"value {key}"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client, seed) for seed in range(8)]:
            done.result()
    assert set(made.values()) == {1}
    assert len(flights) == 0
