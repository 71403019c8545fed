"""The people of the world: names, accounts, muted words, and whom they follow, block, mute and subscribe to."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from candidate_pipeline_feed.schema import EDGE_CODE
from candidate_pipeline_feed.world.tastes import Latents
from candidate_pipeline_feed.world.text import plain
from candidate_pipeline_feed.world.vocabulary import LANGUAGES, Vocabulary

Rows = NDArray[np.int64]

DAY_MS = 86_400_000
ROBIN = 41
"""Row of the person the world's default feed is for (user id 42): a busy reader with settled likes and dislikes."""
ROBIN_LIKES = ("cycling", "cooking", "space")
ROBIN_DISLIKES = ("football", "money")
ROBIN_MUTED_WORDS = ("crypto", "derby")
_MEDIAN_FOLLOWS = 20.0


@attrs.frozen(eq=False)
class People:
    """The visible side of the people, by row of the users table.

    Args:
        names: Display names.
        handles: Unique handles.
        created_at: When the account was opened, ms, int64 [users].
        muted_words: Muted keywords; () for none.
        sells: Whether the person has posts for subscribers only, bool [users].
    """

    names: tuple[str, ...]
    handles: tuple[str, ...]
    created_at: Rows
    muted_words: tuple[tuple[str, ...], ...]
    sells: NDArray[np.bool_]


@attrs.frozen(eq=False)
class Relations:
    """Relations by rows of the users table, all of shape [relations].

    Args:
        src: Who.
        dst: Whom.
        kind: Index into `EDGE_KINDS`.
        created_at: Since when, ms.
    """

    src: Rows
    dst: Rows
    kind: Rows
    created_at: Rows

    def of(self, kind: str, users: int) -> list[Rows]:
        """For each person, the rows of the people it has that relation to."""
        chosen = self.kind == EDGE_CODE[kind]
        order = np.argsort(self.src[chosen], kind="stable")
        bounds = np.searchsorted(self.src[chosen][order], np.arange(1, users))
        return np.split(self.dst[chosen][order], bounds)


def settle_robin(latents: Latents, words: Vocabulary) -> None:
    """Give the default viewer its likes, dislikes and a busy two days, in place."""
    if len(latents.taste) <= ROBIN:
        return
    names = [topic.name for topic in words.topics]
    taste = np.full(len(names), -0.2)
    taste[[names.index(name) for name in ROBIN_LIKES]] = (2.0, 1.7, 1.5)
    taste[[names.index(name) for name in ROBIN_DISLIKES]] = -1.5
    latents.taste[ROBIN] = (taste - taste.mean()) / taste.std()
    latents.writes[ROBIN] = np.exp(2.5 * latents.taste[ROBIN]) / np.exp(2.5 * latents.taste[ROBIN]).sum()
    latents.activity[ROBIN] = 3.5 * latents.activity.mean()
    latents.posting[ROBIN] = 0.5
    latents.language[ROBIN] = LANGUAGES.index("en")


def draw_people(rng: np.random.Generator, latents: Latents, words: Vocabulary, start_ms: int) -> People:
    """Draw names, accounts and muted words; accounts are opened before `start_ms`."""
    users = len(latents.taste)
    pairs = len(words.first_names) * len(words.last_names)
    picks = np.concatenate([rng.permutation(pairs) for _ in range(-(-users // pairs))])[:users]
    names: list[str] = []
    handles: list[str] = []
    for row, pair in enumerate(picks.tolist()):
        first, last = divmod(pair, len(words.last_names))
        name = f"{words.first_names[first]} {words.last_names[last]}"
        handle = plain(name.replace(" ", ""))
        if row == ROBIN:
            name, handle = "Robin Sommer", "robin"
        names.append(name)
        handles.append(handle if row < pairs else f"{handle}{row // pairs + 1}")
    # Most accounts are years old, a few are weeks old; whole days.
    age_days = np.where(rng.random(users) < 0.06, rng.integers(3, 60, users), rng.integers(60, 5500, users))
    muted: list[tuple[str, ...]] = []
    for row in range(users):
        if row == ROBIN:
            muted.append(ROBIN_MUTED_WORDS)
        elif rng.random() < 0.22:
            worst = np.argsort(latents.taste[row])[:3]
            tags = [tag for topic in worst for tag in words.topics[int(topic)].hashtags]
            chosen = rng.choice(len(tags), size=int(rng.integers(1, 4)), replace=False)
            muted.append(tuple(tags[int(tag)] for tag in sorted(chosen)))
        else:
            muted.append(())
    sells = (latents.posting > 0) & (rng.random(users) < 0.06)
    day = start_ms // DAY_MS * DAY_MS
    return People(tuple(names), tuple(handles), day - age_days.astype(np.int64) * DAY_MS, tuple(muted), sells)


def draw_relations(
    rng: np.random.Generator, latents: Latents, people: People, words: Vocabulary, start_ms: int
) -> Relations:
    """Draw follows from taste and fame, and blocks and mutes among people of unliked topics, before `start_ms`."""
    users = len(latents.taste)
    topics = [topic.name for topic in words.topics]
    authors = np.flatnonzero(latents.posting > 0)
    counts = np.clip(_MEDIAN_FOLLOWS * rng.lognormal(sigma=0.6, size=users), 3, len(authors) // 3 + 1)
    found: list[tuple[int, int, str]] = []
    for user in range(users):
        likes = latents.writes[authors] @ latents.taste[user]
        likes += 0.6 * latents.style[authors] @ latents.style[user] / np.sqrt(latents.style.shape[1])
        likes -= 2.0 * (latents.language[authors] != latents.language[user])
        keys = 1.1 * likes + latents.fame[authors] + rng.gumbel(size=len(authors))
        keys[authors == user] = -np.inf
        wanted = min(int(counts[user]) * (3 if user == ROBIN else 1), len(authors) // 2)
        order = np.argsort(-keys, kind="stable")
        followed = authors[order[:wanted]]
        found += [(user, int(other), "follow") for other in followed]
        found += [
            (user, int(other), "subscribe")
            for other in followed
            if people.sells[other] and (user == ROBIN or rng.random() < 0.25)
        ]
        chances = rng.random(2)
        strangers = authors[order[wanted:]]
        strangers = strangers[strangers != user]
        if user == ROBIN:  # the loudest voices of what Robin does not care for
            disliked = latents.writes[strangers][:, [topics.index(name) for name in ROBIN_DISLIKES]].sum(axis=1)
            loud = strangers[np.argsort(-disliked * latents.posting[strangers], kind="stable")]
            found += [(user, int(other), "block") for other in loud[:2]]
            found += [(user, int(other), "mute") for other in loud[2:5]]
        elif len(strangers) > 12:
            famous = strangers[np.argsort(-(latents.fame - 0.5 * _liking(latents, user))[strangers], kind="stable")]
            size = int(rng.integers(1, 4))
            if chances[0] < 0.06:
                found += [(user, int(other), "block") for other in rng.permutation(famous[:40])[:size]]
            if chances[1] < 0.08:
                found += [(user, int(other), "mute") for other in rng.permutation(famous[:40])[:size]]
    src = np.array([user for user, _other, _kind in found], dtype=np.int64)
    dst = np.array([other for _user, other, _kind in found], dtype=np.int64)
    kind = np.array([EDGE_CODE[name] for _user, _other, name in found], dtype=np.int64)
    # Since whole days, after both accounts were opened and before the first event.
    opened = np.maximum(people.created_at[src], people.created_at[dst])
    days = (start_ms // DAY_MS * DAY_MS - opened) // DAY_MS
    since = opened + (rng.random(len(src)) * days).astype(np.int64) * DAY_MS
    return Relations(src, dst, kind, since)


def _liking(latents: Latents, user: int) -> NDArray[np.float64]:
    liking: NDArray[np.float64] = latents.writes @ latents.taste[user]
    return liking
