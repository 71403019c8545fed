"""What depends on the viewer: short histories in long windows, second requests, histories that grow."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, cast

import attrs
import jax
from ranker_grid import Key
from ranker_models import Case
from ranker_timing import Program, Times, interleaved
from ranker_variants import NEW_USERS, PEER_NAMES, Variant, backend_of, cold, histories, lists

from phoenix_recsys.backend import RankerBackend
from phoenix_recsys.requests import History, Items

GROWTH: Final = (1, 4, 16)
#: Of these backends and precisions the padded histories are timed; a viewer's part is all that they change.
PADDED: Final = ("jit", "kv_cache", *PEER_NAMES)
BUCKETED: Final = "kv_cache history buckets"


def history_buckets(places: int) -> tuple[int, ...]:
    """Powers of two from 64 up to the window."""
    return (*itertools.takewhile(lambda size: size < places, (64 << shift for shift in range(20))), places)


def padded(case: Case, variants: list[Variant], seconds: float) -> dict[Key, tuple[Times, Times]]:
    """Times of cold requests with full histories and with a third of the events, at the most candidates."""
    size = case.size
    chosen = [variant for variant in variants if variant.name in PADDED]
    for variant in variants:
        if variant.name == "kv_cache":
            backend = backend_of(case, "kv_cache", variant.precision, history_buckets=history_buckets(size.history))  # type: ignore[arg-type]  # one of ours
            chosen.append(Variant(BUCKETED, variant.precision, "prefix", backend))
    items = lists(case, size.candidates[-1])
    programs: dict[str, Program] = {}
    for index, variant in enumerate(chosen):
        programs[f"{index} full"] = cold(variant, histories(case), items)
        programs[f"{index} third"] = cold(variant, histories(case, size.history // 3), items)
    times = interleaved(programs, seconds)
    return {
        (variant.name, variant.precision): (times[f"{index} full"], times[f"{index} third"])
        for index, variant in enumerate(chosen)
    }


def second_request(case: Case, variants: list[Variant], seconds: float) -> dict[str, tuple[Times, Times]]:
    """Times of a viewer's first and second request for other items, by precision of `kv_cache`."""
    items, asked = lists(case, 64), histories(case)
    programs: dict[str, Program] = {}
    before: dict[str, Callable[[], Any]] = {}
    for variant in _kv_cache(variants):
        returning = _Returning(cast("RankerBackend", variant.server), asked, items)
        programs[f"{variant.precision} first"] = cold(variant, asked, items)
        programs[f"{variant.precision} second"] = returning.second
        before[f"{variant.precision} second"] = returning.before
    times = interleaved(programs, seconds, before=before)
    return {v.precision: (times[f"{v.precision} first"], times[f"{v.precision} second"]) for v in _kv_cache(variants)}


def _kv_cache(variants: list[Variant]) -> list[Variant]:
    return [variant for variant in variants if variant.name == "kv_cache"]


@attrs.define
class _Returning:
    """Viewers who ask a second time, for other items.

    Attributes:
        backend: may have cached them.
        asked: histories in turn.
        items: lists in turn.
    """

    backend: RankerBackend
    asked: list[History]
    items: list[Items]
    user: int = 0
    turn: int = 0

    def before(self) -> None:
        """The first request of the next viewer."""
        self.user, self.turn = next(NEW_USERS), self.turn + 1
        self._score(self.turn)

    def second(self) -> Any:
        """The second one."""
        return self._score(self.turn + 1)

    def _score(self, which: int) -> Any:
        history = self.asked[self.turn % len(self.asked)]
        return self.backend.score(self.user, history, self.items[which % len(self.items)])


@attrs.define
class _Growing:
    """A viewer never seen before whose history grows by some events.

    Attributes:
        backend: extends what it has cached.
        longer: the history afterwards.
        new: events added.
    """

    backend: RankerBackend
    longer: History
    new: int
    user: int = 0

    def before(self) -> None:
        """Encode the shorter history of the next viewer."""
        self.user = next(NEW_USERS)
        old = len(self.longer) - self.new
        fields: dict[str, Any] = {
            name: None if field is None else field[:old]
            for name, field in attrs.asdict(self.longer, recurse=False).items()
        }
        _settled(self.backend.prepare(self.user, History(**fields)))

    def extend(self) -> None:
        """See the longer one."""
        _settled(self.backend.prepare(self.user, self.longer))

    def anew(self) -> None:
        """See the longer one for a viewer of whom nothing is cached."""
        _settled(self.backend.prepare(next(NEW_USERS), self.longer))


def _settled(viewer: Any) -> None:
    for leaf in jax.tree.leaves(getattr(viewer, "prefix", viewer)):
        leaf.block_until_ready()


def growth(case: Case, variants: list[Variant], seconds: float) -> dict[tuple[str, int], Times]:
    """Times of preparing a viewer whose history grew, by precision of `kv_cache` and new events; 0 is anew."""
    programs: dict[str, Program] = {}
    before: dict[str, Callable[[], Any]] = {}
    counters: list[tuple[RankerBackend, int]] = []
    for variant in _kv_cache(variants):
        backend = cast("RankerBackend", variant.server)
        counters.append((backend, backend.stats().caches["prefixes"].extended))
        longer = case.history(seed=1)
        programs[f"{variant.precision} 0"] = _Growing(backend, longer, 0).anew
        for new in GROWTH:
            if new < len(longer):
                growing = _Growing(backend, longer, new)
                programs[f"{variant.precision} {new}"] = growing.extend
                before[f"{variant.precision} {new}"] = growing.before
    times = interleaved(programs, seconds, before=before)
    for backend, extended in counters:
        assert backend.stats().caches["prefixes"].extended > extended, "no prefix was extended"
    found = {}
    for name, each in times.items():
        precision, _, new_events = name.partition(" ")
        found[precision, int(new_events)] = each
    return found
