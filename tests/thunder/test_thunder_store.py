"""The post store against a model of it that is slow and obviously right."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import MisconfigurationError
from candidate_pipeline_feed.records import Edges, Events, Items, Tables, Users
from candidate_pipeline_feed.store import FeedTables
from candidate_pipeline_thunder.posts import Posts
from candidate_pipeline_thunder.store import PostStore

HOUR = 3_600_000
NOW = 1_000 * HOUR


@attrs.frozen
class Post:
    """One post as a person would think of it."""

    id: int
    author: int
    at: int
    reply_to: int = 0
    reply_to_author: int = 0
    conversation: int = 0
    repost_of: int = 0
    repost_author: int = 0
    video: bool = False

    @property
    def original(self) -> bool:
        """Neither reply nor repost."""
        return not self.reply_to and not self.repost_of


def as_posts(posts: list[Post]) -> Posts:
    """The columns of a list of posts."""
    return Posts(*([getattr(post, field.name) for post in posts] for field in attrs.fields(Post)))


def empty_tables() -> FeedTables:
    """Tables without a row."""
    items = Items.build(item_id=[], author_id=[], created_at=[], text=[])
    events = Events.build(user_id=[], item_id=[], time=[], action=[])
    return FeedTables.of(
        Tables(Users.build(user_id=[], name=[]), items, Edges.build(src=[], dst=[], kind=[]), events), Path()
    )


def store_of(posts: list[Post], **options: Any) -> PostStore:
    """An open store that holds the posts."""
    store = PostStore(empty_tables(), **options)
    store.open()
    store.insert(as_posts(posts))
    return store


def ids_of(store: PostStore, viewer: int, follows: list[int], now: int = NOW, **how: Any) -> list[int]:
    """What the store returns, by id."""
    found: list[int] = store.recent(viewer, np.array(follows, np.int64), now, **how).posts.item_id.tolist()
    return found


class SlowStore:
    """The rules, one post at a time."""

    def __init__(self, retention_ms: int, originals: int, secondary: int, videos: int, scan: int) -> None:
        self.retention = retention_ms
        self.originals, self.secondary, self.videos, self.scan = originals, secondary, videos, scan
        self.posts: dict[int, Post] = {}
        self.removed: dict[int, int] = {}

    def insert(self, posts: list[Post]) -> None:
        """Later ones replace earlier ones; removed ones stay away."""
        for post in posts:
            if post.id not in self.removed:
                self.posts[post.id] = post

    def remove(self, ids: list[int], at: int) -> None:
        """Forget posts and remember that they are gone."""
        for item in ids:
            self.removed[item] = max(at, self.removed.get(item, at))
            self.posts.pop(item, None)

    def trim(self, now: int) -> None:
        """Forget what is too old."""
        self.posts = {item: post for item, post in self.posts.items() if now - post.at <= self.retention}
        self.removed = {item: at for item, at in self.removed.items() if now - at <= self.retention}

    def visible(self, post: Post, now: int) -> bool:
        """Made at or before now, and not too old."""
        return post.at <= now and now - post.at <= self.retention

    def has_video(self, post: Post) -> bool:
        """A video of its own or, for a repost, of the post it passes on; replies never."""
        source = self.posts.get(post.repost_of)
        return not post.reply_to and (post.video or (source is not None and source.video and not source.reply_to))

    def author_of(self, given_author: int, item: int) -> int:
        """What a post says, else what the store knows."""
        return given_author or (self.posts[item].author if item in self.posts else 0)

    def fits(self, post: Post, follows: list[int], now: int) -> bool:
        """The rules on replies."""
        if not post.reply_to:
            return True
        parent = self.posts.get(post.reply_to)
        if parent is None or not self.visible(parent, now):
            return False
        if parent.original:
            return True
        near_root = post.conversation != 0 and parent.reply_to == post.conversation
        return near_root and self.author_of(post.reply_to_author, post.reply_to) in follows

    def recent(
        self, viewer: int, follows: list[int], now: int, exclude: list[int], videos_only: bool, max_results: int
    ) -> list[int]:
        """The posts of every author in turn."""

        def queue(author: int, chosen: Callable[[Post], bool], most: int, replies: bool) -> list[Post]:
            mine = [post for post in self.posts.values() if post.author == author and chosen(post)]
            mine = [post for post in mine if self.visible(post, now)]
            mine.sort(key=lambda post: (-post.at, -post.id))
            looked_at = [post for post in mine if post.id not in exclude][: self.scan]
            good = [
                post
                for post in looked_at
                if not (post.repost_of and self.author_of(post.repost_author, post.repost_of) == viewer)
            ]
            return [post for post in good if not replies or self.fits(post, follows, now)][:most]

        found: list[Post] = []
        for author in sorted(set(follows)):
            if videos_only:
                found += queue(author, self.has_video, self.videos, replies=False)
            else:
                found += queue(author, lambda post: post.original, self.originals, replies=False)
                found += queue(author, lambda post: not post.original, self.secondary, replies=True)
        found.sort(key=lambda post: (-post.at, -post.id))
        return [post.id for post in found[:max_results]]


IDS = st.integers(1, 25)
PEOPLE = st.integers(1, 5)
TIMES = st.integers(NOW - 60 * HOUR, NOW + 2 * HOUR) | st.sampled_from([NOW, NOW - 48 * HOUR, NOW - 48 * HOUR - 1])
LINKS = st.just(0) | IDS


@st.composite
def post_lists(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[Post]:
    """Posts whose ids, authors and times meet often."""
    count = draw(st.integers(0, 20))
    return [
        Post(
            draw(IDS),
            draw(PEOPLE),
            draw(TIMES),
            reply_to=draw(LINKS),
            reply_to_author=draw(st.just(0) | PEOPLE),
            conversation=draw(LINKS),
            repost_of=draw(LINKS),
            repost_author=draw(st.just(0) | PEOPLE),
            video=draw(st.booleans()),
        )
        for _ in range(count)
    ]


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.just("insert"), post_lists())
        | st.tuples(st.just("remove"), st.lists(IDS, max_size=4))
        | st.tuples(st.just("trim"), st.integers(NOW - 20 * HOUR, NOW)),
        max_size=5,
    ),
    limits=st.tuples(*[st.integers(1, 4)] * 3),
    scan=st.integers(1, 6),
    viewer=PEOPLE,
    follows=st.lists(PEOPLE, max_size=5),
    exclude=st.lists(IDS, max_size=6),
    videos_only=st.booleans(),
    max_results=st.integers(1, 30),
)
def test_store_equals_the_slow_model(
    changes: list[tuple[str, Any]],
    limits: tuple[int, int, int],
    scan: int,
    viewer: int,
    follows: list[int],
    exclude: list[int],
    videos_only: bool,
    max_results: int,
) -> None:
    """Whatever is inserted, removed and trimmed, the store returns what the slow model returns, in its order."""
    originals, secondary, videos = limits
    slow = SlowStore(48 * HOUR, originals, secondary, videos, scan)
    fast = store_of([], max_originals=originals, max_secondary=secondary, max_videos=videos, scan_limit=scan)
    for what, value in changes:
        if what == "insert":
            slow.insert(value)
            fast.insert(as_posts(value))
        elif what == "remove":
            slow.remove(value, NOW)
            fast.remove(np.array(value, np.int64), NOW)
        else:
            slow.trim(value)
            fast.trim(value)
    wanted = slow.recent(viewer, follows, NOW, exclude, videos_only, max_results)
    found = ids_of(
        fast,
        viewer,
        follows,
        exclude=np.array(exclude, np.int64),
        videos_only=videos_only,
        max_results=max_results,
    )
    assert found == wanted
    assert len(fast) == len(slow.posts)


def test_posts_of_the_very_millisecond_are_visible() -> None:
    """A post made at the request's clock is there, and one made a millisecond later is not."""
    store = store_of([Post(1, 7, NOW), Post(2, 7, NOW + 1)])
    assert ids_of(store, 1, [7]) == [1]
    assert ids_of(store, 1, [7], NOW + 1) == [2, 1]


def test_retention_is_inclusive() -> None:
    """A post exactly as old as the retention is returned, and one older by a millisecond is not."""
    store = store_of([Post(1, 7, NOW - 48 * HOUR), Post(2, 7, NOW - 48 * HOUR - 1)])
    assert ids_of(store, 1, [7]) == [1]
    lifted = store_of([Post(2, 7, 0)], retention=dt.timedelta(days=36_500))
    assert ids_of(lifted, 1, [7]) == [2]


def test_ties_are_ordered_by_falling_id() -> None:
    """Posts of one time come with the larger id first, whatever order they were inserted in."""
    store = store_of([Post(3, 7, NOW - 5), Post(9, 8, NOW - 5), Post(5, 7, NOW - 5), Post(1, 8, NOW - 4)])
    assert ids_of(store, 1, [8, 7]) == [1, 9, 5, 3]


def test_limits_of_each_queue() -> None:
    """An author gives at most 50 originals and 30 secondary posts, the newest of each."""
    posts = [Post(i, 7, NOW - i) for i in range(1, 61)]
    posts += [Post(1000 + i, 7, NOW - i, repost_of=5000, repost_author=99) for i in range(1, 41)]
    found = ids_of(store_of(posts), 1, [7])
    assert sorted(found) == [*range(1, 51), *range(1001, 1031)]


def test_scan_limit_counts_what_is_looked_at() -> None:
    """Reposts of the viewer's own posts use up the scan limit; excluded and removed posts do not."""
    own = [Post(i, 7, NOW - i, repost_of=500, repost_author=1) for i in range(1, 4)]
    others = [Post(10 + i, 7, NOW - 10 - i, repost_of=600, repost_author=2) for i in range(3)]
    store = store_of(own + others, scan_limit=4)
    assert ids_of(store, 1, [7]) == [10]
    assert ids_of(store, 1, [7], exclude=np.array([1, 2])) == [10, 11, 12]
    store.remove(np.array([1, 2, 3]), NOW)
    assert ids_of(store, 1, [7]) == [10, 11, 12]


def test_replies_need_their_parent_in_sight() -> None:
    """A reply to an original is kept whoever wrote that; one whose parent is unknown or removed is not."""
    posts = [Post(1, 50, NOW - 10), Post(2, 7, NOW - 5, reply_to=1), Post(3, 7, NOW - 4, reply_to=404)]
    store = store_of(posts)
    assert ids_of(store, 1, [7]) == [2]
    store.remove(np.array([1]), NOW)
    assert ids_of(store, 1, [7]) == []


def test_replies_to_replies() -> None:
    """A reply to a reply is kept only right below the conversation's first post and if its author is followed."""
    root, first = Post(1, 50, NOW - 10), Post(2, 8, NOW - 9, reply_to=1, conversation=1)
    second = Post(3, 7, NOW - 8, reply_to=2, conversation=1)
    third = Post(4, 7, NOW - 7, reply_to=3, conversation=1)
    nameless = Post(5, 7, NOW - 6, reply_to=2)
    store = store_of([root, first, second, third, nameless])
    assert ids_of(store, 1, [7, 8]) == [3, 2]
    assert ids_of(store, 1, [7]) == []


def test_reposts_of_the_viewers_posts_are_dropped() -> None:
    """A repost of the requester's post is left out, also where only the store knows who wrote the original."""
    store = store_of([Post(1, 42, NOW - 9), Post(2, 7, NOW - 5, repost_of=1), Post(3, 7, NOW - 4, repost_of=77)])
    assert ids_of(store, 42, [7]) == [3]
    assert ids_of(store, 43, [7]) == [3, 2]


def test_videos_are_an_index_of_their_own() -> None:
    """A request for videos finds videos and reposts of them, never replies, and skips the rules on replies."""
    posts = [
        Post(1, 7, NOW - 1, video=True),
        Post(2, 7, NOW - 2),
        Post(3, 7, NOW - 3, repost_of=4),
        Post(4, 50, NOW - 9, video=True),
        Post(5, 7, NOW - 5, reply_to=1, video=True),
        Post(6, 7, NOW - 6, repost_of=404),
    ]
    store = store_of(posts)
    assert ids_of(store, 9, [7], videos_only=True) == [1, 3]


def test_removed_posts_do_not_come_back_until_forgotten() -> None:
    """A removal outlives a late copy of the post, and is forgotten with the retention."""
    store = store_of([Post(1, 7, NOW - 1), Post(2, 7, NOW - 2)])
    assert store.remove(np.array([1, 404]), NOW) == 1
    assert store.insert(as_posts([Post(1, 7, NOW - 1), Post(404, 7, NOW)])) == 0
    assert ids_of(store, 9, [7]) == [2]
    later = NOW + 48 * HOUR + 1
    assert store.trim(later) == 1
    assert store.insert(as_posts([Post(1, 7, later)])) == 1
    assert ids_of(store, 9, [7], later) == [1]


def test_a_post_with_a_known_id_is_replaced() -> None:
    """Inserting an id again replaces the post, with its author and its place in the queues."""
    store = store_of([Post(1, 7, NOW - 1)])
    store.insert(as_posts([Post(1, 8, NOW - 2)]))
    assert ids_of(store, 9, [7, 8]) == [1]
    assert store.recent(9, np.array([8]), NOW).posts.created_at.tolist() == [NOW - 2]
    assert len(store) == 1


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, 2**64 - 1])
def test_extreme_ids_and_times(value: int) -> None:
    """Ids and times at the ends of 64 bits are ordered like any other; uint64 ids are reinterpreted."""
    ids: Any = np.array([value], np.uint64 if value >= 2**63 else np.int64)
    store = store_of([], retention=dt.timedelta(days=36_500))
    store.insert(Posts.of(ids, [7], [NOW]))
    store.insert(Posts.of([11, 12], [7, 7], [2**63 - 1, -(2**63)]))
    assert ids_of(store, 1, [7, -(2**63), 2**63 - 1]) == [int(ids.view(np.int64)[0])]


def test_bad_columns_are_refused() -> None:
    """Posts of unequal columns, with id 0 or with fractional ids say what is wrong."""
    with pytest.raises(ValueError, match="differ in length"):
        Posts.of([1, 2], [7], [NOW, NOW])
    with pytest.raises(ValueError, match="post id 0 means 'none', found it in row 1"):
        Posts.of([1, 0], [7, 7], [NOW, NOW])
    with pytest.raises(TypeError, match="float64"):
        Posts.of(np.array([1.5]), [7], [NOW])


def test_a_closed_store_says_so() -> None:
    """Reading before open or after close raises a misconfiguration instead of returning nothing."""
    store = PostStore(empty_tables())
    with pytest.raises(MisconfigurationError, match="not open"):
        ids_of(store, 1, [7])
    store.open()
    assert ids_of(store, 1, [7]) == []
    store.close()
    with pytest.raises(MisconfigurationError, match="not open"):
        len(store)


def test_opening_takes_everything_from_the_items_table() -> None:
    """Opened over tables, the store knows links, authors of originals, and which videos are long enough."""
    items = Items.build(
        item_id=[1, 2, 3, 4],
        author_id=[7, 8, 7, 7],
        created_at=[NOW - 4, NOW - 3, NOW - 2, NOW - 1],
        text=["a", "b", "c", "d"],
        repost_of=[None, None, 2, None],
        reply_to=[None, None, None, 1],
        video_duration_ms=[4999, 5000, None, None],
    )
    base = empty_tables().tables
    store = PostStore(FeedTables.of(attrs.evolve(base, items=items), Path()))
    store.open()
    found = store.recent(1, np.array([7, 8]), NOW)
    assert found.posts.item_id.tolist() == [4, 3, 2, 1]
    assert found.repost_author.tolist() == [0, 8, 0, 0]
    assert ids_of(store, 1, [7, 8], videos_only=True) == [3, 2]


def test_readers_never_see_half_a_change() -> None:
    """While a writer swaps whole batches in and out, every reader finds one batch or the other, complete."""
    even = [Post(2 * i, 7, NOW - i) for i in range(1, 40)]
    odd = [Post(2 * i + 1, 7, NOW - i) for i in range(1, 40)]
    store = store_of(even)
    stop = threading.Event()
    seen: list[set[int]] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(set(ids_of(store, 1, [7])))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        store.insert(as_posts(odd))
        store._removed.clear()
        store.remove(np.array([post.id for post in odd]), NOW)
        store._removed.clear()
    stop.set()
    reader.join()
    sizes = {len(ids) for ids in seen}
    assert sizes <= {39, 50}


@pytest.mark.parametrize("option", ["retention", "max_originals", "scan_limit"])
def test_options_have_bounds(option: str) -> None:
    """Options that make no sense are refused by the loader's constraints."""
    from candidate_pipeline.options import options_of, violation

    found = options_of(PostStore)[option]
    bad: Any = dt.timedelta(0) if option == "retention" else 0
    assert any(violation(bad, constraint) for constraint in found.constraints)
    assert found.doc
