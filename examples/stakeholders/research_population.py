"""The population of the earlier research project's frontier experiments, and what it measured on it.

600 people of six archetypes and 100 items of six topics with 18 action probabilities each; three evaluation utilities
of a slate of ten; and a greedy diversified slate for each of 21 settings of a diversity knob. The utilities are not
in one unit: two are means of weighted probabilities, the third is about topics of a slate and reads no action at all.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import numpy.typing as npt
from research_content import ACTIONS, INDEX

from candidate_pipeline_stakeholder.utilities import DECLARED_ACTIONS

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TOPICS: Final = ("sports", "tech", "politics_L", "politics_R", "entertainment", "news")
ARCHETYPES: Final = ("sports", "tech", "politics_L", "politics_R", "lurker", "power")
LEFT, RIGHT = 2, 3
"""Archetypes and topics of the two political sides; the same number in both lists."""

USERS, ITEMS, SLATE = 600, 100, 10
DELTAS: Final = np.linspace(0.0, 1.0, 21)
STAKEHOLDERS: Final = ("user", "platform", "society")

USER_WEIGHTS: Final = DECLARED_ACTIONS.as_mapping()["user"]
PLATFORM_WEIGHTS: Final = DECLARED_ACTIONS.as_mapping()["platform"]
ENGAGEMENT_WEIGHTS: Final = {"favorite": 1.0, "repost": 0.8, "follow_author": 0.5}

# Probability of an action on an item by topic: lowest value and width of the uniform draw.
_BY_TOPIC: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "sports": {"favorite": (0.5, 0.3), "repost": (0.3, 0.2)},
    "tech": {"favorite": (0.4, 0.3), "share": (0.3, 0.2)},
    "politics_L": {
        "favorite": (0.4, 0.3),
        "repost": (0.4, 0.3),
        "reply": (0.3, 0.2),
        "block_author": (0.1, 0.1),
        "not_interested": (0.15, 0.1),
    },
    "entertainment": {"favorite": (0.4, 0.2), "dwell": (0.5, 0.2)},
    "news": {"click": (0.4, 0.2), "dwell": (0.3, 0.2)},
}
_BY_TOPIC["politics_R"] = _BY_TOPIC["politics_L"]
_BASE = 0.05


def vector(weights: dict[str, float]) -> Float64:
    """Weights by action name as float64 [18] in the order of `ACTIONS`."""
    found = np.zeros(len(ACTIONS))
    for name, weight in weights.items():
        found[INDEX[name]] = weight
    return found


_PARTS: Final = np.stack(
    [
        vector(USER_WEIGHTS),
        vector(PLATFORM_WEIGHTS),
        vector(dict.fromkeys(("block_author", "mute_author", "report"), 1.0)),
        vector(dict.fromkeys(("favorite", "repost", "follow_author"), 1.0)),
    ],
    axis=1,
)


@attrs.frozen(eq=False)
class Population:
    """Who sees what with which probabilities.

    Attributes:
        values: float64 [users, items, 18], the probability of each action.
        topic: of each item, int64 [items].
        archetype: of each user, int64 [users].
    """

    values: Float64
    topic: Int64
    archetype: Int64


def population(seed: int, *, users: int = USERS, items: int = ITEMS) -> Population:
    """600 people whose archetype goes round, 100 items whose topic goes round.

    An item's probabilities are drawn once by topic over a background of U(0, .05). People like what is of their own
    number (favorite × 1.5, repost × 1.3), and the two political sides dislike each other's items (favorite × .3,
    block × 2); everything is clipped to [0, 1].
    """
    rng = np.random.default_rng(seed)
    topic = np.arange(items, dtype=np.int64) % len(TOPICS)
    archetype = np.arange(users, dtype=np.int64) % len(ARCHETYPES)
    base = rng.uniform(0.0, _BASE, (items, len(ACTIONS)))
    for number, name in enumerate(TOPICS):
        mine = topic == number
        for action, (low, width) in _BY_TOPIC[name].items():
            base[mine, INDEX[action]] = low + width * rng.random(int(mine.sum()))
    values = np.repeat(base[None], users, axis=0)
    own = archetype[:, None] == topic
    one, other = archetype[:, None] == LEFT, archetype[:, None] == RIGHT
    opposed = (one & (topic == RIGHT)) | (other & (topic == LEFT))
    values[..., INDEX["favorite"]] *= np.where(own, 1.5, np.where(opposed, 0.3, 1.0))
    values[..., INDEX["repost"]] *= np.where(own, 1.3, 1.0)
    values[..., INDEX["block_author"]] *= np.where(opposed, 2.0, 1.0)
    return Population(np.clip(values, 0.0, 1.0), topic, archetype)


def slates(scores: npt.ArrayLike, topic: Int64, deltas: npt.ArrayLike = DELTAS, size: int = SLATE) -> Int64:
    """Greedy diversified slates of every user at every setting of the knob.

    The next item is the one with the largest (1 − δ)·score + δ / (1 + items of its topic already picked); of equal
    ones the first. So δ = 0 is the plain best ten, and δ = 1 goes round the topics whatever the scores are. Within a
    topic the order never changes, which leaves one item per topic to compare at each step.

    Args:
        scores: float [users, items].
        topic: int64 [items].
        deltas: settings of the knob, [D], from 0 to 1.
        size: items in a slate.

    Returns:
        Item numbers in the order of picking, int64 [D, users, size].
    """
    found, knob = np.asarray(scores, np.float64), np.asarray(deltas, np.float64)
    users, items = found.shape
    topics = int(topic.max()) + 1
    picked = np.empty((len(knob), users, size), np.int64)
    plain = knob < 1.0
    for settings, values in ((plain, found), (~plain, np.zeros_like(found))):
        if not settings.any():
            continue
        queue = np.full((users, topics, size + 1), items, np.int64)
        for number in range(topics):
            members = np.flatnonzero(topic == number)
            best = members[np.argsort(-values[:, members], axis=1, kind="stable")][:, :size]
            queue[:, number, : best.shape[1]] = best
        padded = np.concatenate([values, np.full((users, 1), -np.inf)], axis=1)
        queued = np.take_along_axis(padded, queue.reshape(users, -1), axis=1).reshape(queue.shape)
        picked[settings] = _merge(queue, queued, knob[settings], size, items)
    return picked


def _merge(queue: Int64, queued: Float64, knob: Float64, size: int, items: int) -> Int64:
    """Take the best head of the topics' queues [users, topics, size + 1] again and again: int64 [D, users, size]."""
    users = len(queue)
    settings = len(knob)
    share = np.repeat(knob, users)
    # At δ = 1 every queue still ends: an exhausted one is worth −∞ rather than 0 · −∞.
    price = np.where(share < 1.0, 1.0 - share, 1.0)
    user = np.tile(np.arange(users), settings)
    row = np.arange(len(user))
    head = queue[user, :, 0]
    worth = price[:, None] * queued[user, :, 0] + share[:, None]
    taken = np.zeros(head.shape, np.int64)
    picked = np.empty((len(user), size), np.int64)
    for place in range(size):
        best = worth == worth.max(axis=1, keepdims=True)
        chosen = np.where(best, head, items + 1).argmin(axis=1)
        picked[:, place] = head[row, chosen]
        count = taken[row, chosen] + 1
        taken[row, chosen] = count
        head[row, chosen] = queue[user, chosen, count]
        worth[row, chosen] = price * queued[user, chosen, count] + share / (1.0 + count)
    return picked.reshape(settings, users, size)


def utilities(world: Population, slate: Int64, further: Float64 | None = None) -> Float64:
    """What each stakeholder gets from slates: float64 [..., 3 + m], in the order of `STAKEHOLDERS`.

    * user: the mean of the user's weights times the probabilities over everybody's slate;
    * platform: the same with its weights, plus retention = clip(.8·(1 − .5·n / (q + .1)), 0, 1) with n the summed mean
      probabilities of block, mute and report, and q those of favorite, repost and follow;
    * society: mean number of topics in a slate over 6, less the mean share of the own side in the political items that
      the two political archetypes see (people who see none are left out).

    Args:
        world: the population.
        slate: item numbers, int64 [..., users, size].
        further: weights of further utilities, float64 [m, 18]; each is the mean of its weights times probabilities.
    """
    lead = slate.shape[:-2]
    # In one order, so that equal slates have equal utilities to the last bit: dominance hangs on it.
    flat = np.sort(slate.reshape(-1, *slate.shape[-2:]), axis=2)
    people = np.arange(len(world.archetype))[:, None]
    # All that is read from probabilities is linear in them, so four numbers an item stand for its eighteen.
    parts = world.values @ (_PARTS if further is None else np.concatenate([_PARTS, further.T], axis=1))
    user, platform, harm, joy, *rest = np.stack([parts[people, one].mean(axis=(0, 1)) for one in flat], axis=1)
    retention = np.clip(0.8 * (1.0 - 0.5 * harm / (joy + 0.1)), 0.0, 1.0)
    shown = world.topic[flat]
    per_topic = np.stack([(shown == number).sum(axis=2) for number in range(len(TOPICS))], axis=-1)
    variety = (per_topic > 0).sum(axis=-1).mean(axis=1) / len(TOPICS)
    found = np.stack([user, platform + retention, variety - _bubble(world, per_topic), *rest], axis=-1)
    return found.reshape(*lead, -1)


def _bubble(world: Population, per_topic: Int64) -> Float64:
    """The mean share of the own side among political items, over people of both sides who see any; [slates]."""
    own = np.where(world.archetype == LEFT, per_topic[..., LEFT], per_topic[..., RIGHT])
    political = per_topic[..., LEFT] + per_topic[..., RIGHT]
    counted = np.isin(world.archetype, (LEFT, RIGHT)) & (political > 0)
    share = np.where(counted, own / np.maximum(political, 1), 0.0)
    return np.asarray(share.sum(axis=1) / np.maximum(counted.sum(axis=1), 1), np.float64)


def frontier(world: Population, scores: npt.ArrayLike, further: Float64 | None = None) -> Float64:
    """The utilities at all 21 settings of the knob: float64 [21, 3 + m]; see `utilities`."""
    return utilities(world, slates(scores, world.topic), further)


def engagement(world: Population) -> Float64:
    """The score of the published geometry: favorite + .8·repost + .5·follow; [users, items]."""
    return np.asarray(world.values @ vector(ENGAGEMENT_WEIGHTS), np.float64)


def scored(world: Population, weights: npt.ArrayLike) -> Float64:
    """w·p of every item for every user, [users, items]."""
    return np.asarray(world.values @ np.asarray(weights, np.float64), np.float64)


def constant(world: Population) -> Float64:
    """No model: every item is worth the same, so that a slate goes round the topics; [users, items] zeros."""
    return np.zeros(world.values.shape[:2])


def pareto(points: npt.ArrayLike) -> Bool:
    """Which points no other dominates (at least as good everywhere, better somewhere): [n, m] to bool [n]."""
    found = np.asarray(points, np.float64)
    at_least = (found[:, None] >= found[None]).all(axis=2)
    better = (found[:, None] > found[None]).any(axis=2)
    return np.asarray(~(at_least & better).any(axis=0), np.bool_)


def attainable(points: npt.ArrayLike) -> tuple[Float64, Float64]:
    """The best and the range (best less worst) of each utility over a full point set [n, m]: two arrays [m]."""
    found = np.asarray(points, np.float64)
    best = found.max(axis=0)
    return best, best - found.min(axis=0)
