"""A made-up platform with a known answer: six archetypes, six topics, and a probability for each of 18 actions.

The earlier research project built one like it and called its table of 6 × 6 × 18 probabilities 648 parameters. Of them
26 rules (24 for one archetype and topic, 2 for an archetype whatever the topic) set 119 numbers, which fill 194 cells
of 14 actions; the rest is zero. The rules for a fan's own topic, one's own and the opposite politics, lurkers and power
users carry its numbers; those for the other topics and the share of each topic in what an archetype sees are made up
here, so as to give the same counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt
from research_content import ACTIONS, INDEX

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

TOPICS: Final = ("sports", "politics_L", "politics_R", "tech", "entertainment", "news")
TOPIC_SHARES: Final = (0.25, 0.125, 0.125, 0.20, 0.20, 0.10)
"""Of posts."""
AUTHORS: Final = (20, 15, 15, 20, 20, 10)
"""By topic."""
ARCHETYPES: Final = ("sports_fan", "political_L", "political_R", "tech_bro", "lurker", "power_user")
ARCHETYPE_SHARES: Final = (0.15, 0.15, 0.15, 0.15, 0.20, 0.20)
USERS, POSTS, ENGAGEMENTS = 1_000, 50_000, 200_000
EVERY_TOPIC: Final = "*"
DAY_MS: Final = 86_400_000
DAYS: Final = 30

Rule = Mapping[str, float]


def _rule(**chances: float) -> Rule:
    return chances


_OPPOSITE: Final = _rule(block_author=0.25, mute_author=0.15, not_interested=0.30, report=0.05, reply=0.10, dwell=0.15)
_SIDE: Final = _rule(favorite=0.65, repost=0.45, reply=0.25, follow_author=0.20, quote=0.15, click=0.30, dwell=0.60)
_NEWS_OF_A_SIDE: Final = _rule(favorite=0.30, repost=0.20, click=0.35, dwell=0.40)
RULES: Final[Mapping[tuple[str, str], Rule]] = {
    ("sports_fan", "sports"): _rule(favorite=0.70, repost=0.30, reply=0.15, click=0.25, dwell=0.60, follow_author=0.08),
    ("sports_fan", "politics_L"): _rule(favorite=0.05, dwell=0.10, not_interested=0.15),
    ("sports_fan", "politics_R"): _rule(favorite=0.06, dwell=0.10, not_interested=0.12),
    ("sports_fan", "tech"): _rule(favorite=0.12, click=0.10, dwell=0.20),
    ("sports_fan", "entertainment"): _rule(favorite=0.35, repost=0.10, click=0.20, dwell=0.35),
    ("sports_fan", "news"): _rule(favorite=0.15, repost=0.04, click=0.20, dwell=0.25),
    ("political_L", "politics_L"): _SIDE,
    ("political_L", "politics_R"): _OPPOSITE,
    ("political_L", "sports"): _rule(favorite=0.15, repost=0.03, click=0.08, dwell=0.15),
    ("political_L", "tech"): _rule(favorite=0.18, repost=0.05, click=0.12, dwell=0.20),
    ("political_L", "entertainment"): _rule(favorite=0.25, repost=0.06, click=0.12, dwell=0.25),
    ("political_L", "news"): _NEWS_OF_A_SIDE,
    ("political_R", "politics_R"): _SIDE,
    ("political_R", "politics_L"): _OPPOSITE,
    ("political_R", "sports"): _rule(favorite=0.20, repost=0.05, click=0.10, dwell=0.18),
    ("political_R", "tech"): _rule(favorite=0.14, repost=0.04, click=0.10, dwell=0.16),
    ("political_R", "entertainment"): _rule(favorite=0.22, repost=0.05, click=0.10, dwell=0.22),
    ("political_R", "news"): _NEWS_OF_A_SIDE,
    ("tech_bro", "tech"): _rule(favorite=0.70, repost=0.35, reply=0.20, click=0.45, dwell=0.65, follow_author=0.10),
    ("tech_bro", "sports"): _rule(favorite=0.10, click=0.06, dwell=0.15),
    ("tech_bro", "politics_L"): _rule(favorite=0.08, dwell=0.12, not_interested=0.10),
    ("tech_bro", "politics_R"): _rule(favorite=0.10, dwell=0.14, not_interested=0.08),
    ("tech_bro", "entertainment"): _rule(favorite=0.25, repost=0.06, click=0.18, dwell=0.28),
    ("tech_bro", "news"): _rule(favorite=0.22, repost=0.10, click=0.30, dwell=0.35),
    ("lurker", EVERY_TOPIC): _rule(favorite=0.20, repost=0.01, click=0.15, dwell=0.35, follow_author=0.02),
    ("power_user", EVERY_TOPIC): _rule(
        favorite=0.45,
        repost=0.35,
        reply=0.25,
        click=0.50,
        dwell=0.55,
        quote=0.15,
        share=0.12,
        share_via_dm=0.08,
        follow_author=0.10,
        profile_click=0.20,
    ),
}

SEEN: Final = np.array(
    [
        [0.50, 0.06, 0.06, 0.10, 0.20, 0.08],
        [0.10, 0.45, 0.12, 0.08, 0.10, 0.15],
        [0.10, 0.12, 0.45, 0.08, 0.10, 0.15],
        [0.10, 0.06, 0.06, 0.50, 0.15, 0.13],
        [0.25, 0.10, 0.10, 0.15, 0.25, 0.15],
        [0.20, 0.15, 0.15, 0.20, 0.15, 0.15],
    ]
)
"""Share of each topic in what an archetype sees, float64 [archetypes, topics]."""


def table() -> Float64:
    """The rules written out: float64 [archetypes, topics, actions]."""
    found = np.zeros((len(ARCHETYPES), len(TOPICS), len(ACTIONS)))
    for (archetype, topic), rule in RULES.items():
        place = slice(None) if topic == EVERY_TOPIC else TOPICS.index(topic)
        for action, chance in rule.items():
            found[ARCHETYPES.index(archetype), place, INDEX[action]] = chance
    return found


@attrs.frozen(eq=False)
class Platform:
    """Who is there, what was posted, and what happened.

    Attributes:
        truth: the probabilities that the events were drawn with, float64 [archetypes, topics, actions].
        archetype: of each user, int64 [users].
        post_topic: int64 [posts].
        post_author: int64 [posts]; an author writes on one topic only.
        post_time: milliseconds, int64 [posts].
        user: of each event, int64 [events]; events are in order of time.
        post: int64 [events].
        time: milliseconds, int64 [events].
        actions: what the user did, bool [events, actions]; often nothing.
    """

    truth: Float64
    archetype: Int64
    post_topic: Int64
    post_author: Int64
    post_time: Int64
    user: Int64
    post: Int64
    time: Int64
    actions: Bool

    @property
    def topic(self) -> Int64:
        """Of each event."""
        return self.post_topic[self.post]

    def head(self, count: int) -> Platform:
        """The first so many events."""
        return attrs.evolve(
            self, user=self.user[:count], post=self.post[:count], time=self.time[:count], actions=self.actions[:count]
        )


def platform(
    seed: int,
    *,
    users: int = USERS,
    posts: int = POSTS,
    engagements: int = ENGAGEMENTS,
    truth: Float64 | None = None,
) -> Platform:
    """Draw a platform.

    An event is a post in front of somebody: the user uniform, the topic by what the archetype sees, the post uniform
    among those of the topic that exist by then, and each action its own Bernoulli draw. Events without any action stay:
    without them a count says nothing of a probability.

    Args:
        seed: of everything random.
        users: how many; archetypes in their shares, rounded.
        posts: how many, over 40 days.
        engagements: events, over the last 30 of them.
        truth: another table than `table()`.
    """
    rng = np.random.default_rng(seed)
    chances = table() if truth is None else truth
    bounds = np.round(np.cumsum(ARCHETYPE_SHARES) * users).astype(np.int64)
    archetype = rng.permutation(np.searchsorted(bounds, np.arange(users), side="right"))
    # The first posts are of every topic and older than any event, so that there is always one to show.
    post_time = np.sort(rng.integers(-10 * DAY_MS, DAYS * DAY_MS, posts))
    post_topic = rng.choice(len(TOPICS), posts, p=TOPIC_SHARES)
    post_topic[: len(TOPICS)] = np.arange(len(TOPICS))
    post_time[: len(TOPICS)] = -10 * DAY_MS
    first_author = np.concatenate([[0], np.cumsum(AUTHORS)[:-1]])
    post_author = first_author[post_topic] + rng.integers(0, np.array(AUTHORS)[post_topic])

    user = rng.integers(0, users, engagements)
    time = np.sort(rng.integers(0, DAYS * DAY_MS, engagements))
    seen = np.cumsum(SEEN, axis=1)[archetype[user]]
    topic = np.minimum((rng.random(engagements)[:, None] >= seen).sum(axis=1), len(TOPICS) - 1)
    lot = rng.random(engagements)
    post = np.empty(engagements, np.int64)
    for number in range(len(TOPICS)):
        mine, shelf = topic == number, np.flatnonzero(post_topic == number)
        there = np.searchsorted(post_time[shelf], time[mine], side="right")
        post[mine] = shelf[(lot[mine] * there).astype(np.int64)]
    actions = rng.random((engagements, len(ACTIONS))) < chances[archetype[user], topic]
    return Platform(chances, archetype, post_topic, post_author, post_time, user, post, time, actions)


def cell_counts(group: Int64, topic: Int64, actions: Bool, groups: int) -> tuple[Float64, Float64]:
    """Count by group and topic.

    Args:
        group: of each event, int64 [events]: an archetype, a component, or a user.
        topic: int64 [events].
        actions: bool [events, actions].
        groups: how many there are.

    Returns:
        How often each action happened, float64 [groups, topics, actions], and events, float64 [groups, topics].
    """
    cell = group * len(TOPICS) + topic
    size = groups * len(TOPICS)
    columns = [np.bincount(cell, weights=column, minlength=size) for column in actions.T]
    happened = np.stack(columns, axis=1).astype(np.float64)
    shown = np.bincount(cell, minlength=size).astype(np.float64)
    return happened.reshape(groups, len(TOPICS), -1), shown.reshape(groups, len(TOPICS))
