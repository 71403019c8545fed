"""Events as sequences: history tokens, targets with their strictly earlier prefix, and windows that hold both.

One pass over a window gives every prefix of it, because the history is causal: a target reads the user token and
its first n history tokens, n being those strictly earlier than the target. So a window of S tokens serves all targets
whose prefix ends inside it, exactly as if each prefix had been encoded by itself.
"""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import numpy.typing as npt

from phoenix_recsys.training.errors import TrainingError
from phoenix_recsys.training.interactions import Float32, Int64, Interactions

Int32 = npt.NDArray[np.int32]


@attrs.frozen(eq=False)
class Sequences:
    """All events by user, time and file order.

    Tokens are events with at least one action; targets are all events. U users, H tokens, E targets, P distinct action
    patterns, A actions.

    Attributes:
        user_ids: int64 [U].
        token_start: first token of each user, int64 [U + 1]; the last entry is H.
        token_item: catalogue index, int32 [H].
        token_pattern: row of ``patterns``, int32 [H].
        token_dwell: seconds, float32 [H], or None.
        patterns: distinct action vectors, float32 [P, A].
        target_user: user index, int32 [E].
        target_item: catalogue index, int32 [E].
        target_prefix: how many of the user's tokens are strictly earlier, int32 [E]; rising within a user.
        target_actions: float32 [E, A].
        target_seconds: time in whole seconds, int64 [E].
    """

    user_ids: Int64
    token_start: Int64
    token_item: Int32
    token_pattern: Int32
    token_dwell: Float32 | None
    patterns: Float32
    target_user: Int32
    target_item: Int32
    target_prefix: Int32
    target_actions: Float32
    target_seconds: Int64

    @classmethod
    def build(cls, data: Interactions) -> Sequences:
        """Sort and index events.

        Raises:
            TrainingError: if there are no events, or only those of one user.
        """
        if len(data) == 0:
            raise TrainingError("training needs events, found none; was everything cut off by the split?")
        user_ids, user = np.unique(data.user_ids, return_inverse=True)
        if len(user_ids) < 2:
            raise TrainingError(
                f"training needs events of at least two users, found {len(data)} events of user {user_ids[0]} only"
            )
        order = np.lexsort((np.arange(len(data)), data.times, user))
        user, times = user[order], data.times[order]
        item_order = np.argsort(data.catalogue.item_ids, kind="stable")
        found = np.searchsorted(data.catalogue.item_ids, data.item_ids[order], sorter=item_order)
        item = item_order[found].astype(np.int32)
        actions = data.actions[order]

        acted = (actions != 0.0).any(axis=1)
        if not acted.any():
            raise TrainingError(f"training needs actions, found none in {len(data)} events")
        before = np.cumsum(acted) - acted  # tokens of all users ahead of this event
        new_user = np.concatenate([[True], user[1:] != user[:-1]])
        new_moment = new_user | np.concatenate([[True], times[1:] != times[:-1]])
        moment = np.maximum.accumulate(np.where(new_moment, np.arange(len(user)), 0))
        first_event = np.flatnonzero(new_user)
        token_start = np.concatenate([before[first_event], [acted.sum()]]).astype(np.int64)
        prefix = before[moment] - token_start[user]
        patterns, pattern = np.unique(actions[acted], axis=0, return_inverse=True)
        return cls(
            user_ids=user_ids,
            token_start=token_start,
            token_item=item[acted],
            token_pattern=pattern.reshape(-1).astype(np.int32),
            token_dwell=None if data.dwell_seconds is None else data.dwell_seconds[order][acted],
            patterns=patterns,
            target_user=user.astype(np.int32),
            target_item=item,
            target_prefix=prefix.astype(np.int32),
            target_actions=actions,
            target_seconds=times // 1000,
        )

    def first_seen(self, num_items: int) -> Int32:
        """The prefix length from which a user's history holds an item: int32 [U, N], huge where it never does."""
        table = np.full((len(self.user_ids), num_items), np.iinfo(np.int32).max, np.int32)
        token_user = np.repeat(np.arange(len(self.user_ids)), np.diff(self.token_start))
        place = np.arange(len(self.token_item)) - self.token_start[token_user]
        # Written backwards, so that the earliest occurrence stays.
        table[token_user[::-1], self.token_item[::-1]] = place[::-1] + 1
        return table


@attrs.frozen(eq=False)
class Windows:
    """W windows of history with the targets they serve, all int64 [W].

    Attributes:
        user: user index.
        start: first token, counted within the user.
        count: tokens, at most S.
        first: first target, an index into the planned targets.
        last: one past the last target.
    """

    user: Int64
    start: Int64
    count: Int64
    first: Int64
    last: Int64

    def __len__(self) -> int:
        return len(self.user)


def plan_windows(
    user: Int32, prefix: Int32, *, slots: int, history_len: int, stride: int, rng: np.random.Generator
) -> Windows:
    """Cut each user's targets into windows.

    Prefix lengths within a window differ by at most ``stride``, so every target but those near a user's beginning
    reads at least ``history_len − stride`` tokens. The first window of a user ends at a random length, so that borders
    fall elsewhere in each epoch.

    Args:
        user: user index of the targets, int32 [E'], rising.
        prefix: their prefix lengths, int32 [E'], rising within a user.
        slots: most targets in a window.
        history_len: most tokens S in a window.
        stride: largest difference of prefix lengths within a window, below ``history_len``.
        rng: the source of the random lengths.
    """
    edges = np.concatenate([[True], user[1:] != user[:-1], [True]]) if len(user) else np.ones(1, bool)
    bounds: list[int] = np.flatnonzero(edges).tolist()
    reach = rng.integers(max(history_len // 2, 1), history_len + 1, max(len(bounds) - 1, 1))
    found: list[tuple[int, int, int, int, int]] = []
    for number, (begin, end) in enumerate(itertools.pairwise(bounds)):
        mine = prefix[begin:end]
        low = 0
        while low < len(mine):
            limit = int(mine[low]) + stride
            if low == 0 and mine[0] <= reach[number]:
                limit = int(reach[number])
            high = min(low + slots, int(np.searchsorted(mine, limit, "right")))
            newest = int(mine[high - 1])
            start = max(0, newest - history_len)
            found.append((int(user[begin]), start, newest - start, begin + low, begin + high))
            low = high
    table = np.array(found, np.int64).reshape(-1, 5)
    return Windows(*(np.ascontiguousarray(column) for column in table.T))
