"""MovieLens-100K: both layouts, the mapping, where the files come from, and what happens when they do not."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import subprocess
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline.errors import DataError
from candidate_pipeline_feed.actions import ACTION_CODE, EVENT_ACTIONS
from candidate_pipeline_feed.datadir import DataDirectory
from candidate_pipeline_feed.follows import MIN_FAVORITES, MIN_SHARE, follows_from
from candidate_pipeline_feed.movielens import TERMS, fetch_ml_100k, read_grouplens, read_recbole, to_tables
from candidate_pipeline_feed.movielens import sources as sources_module
from candidate_pipeline_feed.movielens.layouts import GROUPLENS, LAYOUTS, Layout
from candidate_pipeline_feed.movielens.mapping import CHANNEL_IDS_FROM
from candidate_pipeline_feed.movielens.sources import (
    SourceUnavailableError,
    check_files,
    from_grouplens,
    from_recbole,
    unpack,
)
from candidate_pipeline_feed.tables import Events, Items, check_tables, read_tables

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ml-100k"
GENRES = ("unknown", "Action", "Comedy", "Drama", "Western")
DAY = 86_400
# user, film, stars, day; not in the order of time, with two ratings of one moment.
RATINGS = [
    (1, 3, 5, 11_000),
    (1, 1, 4, 10_001),
    (2, 1, 1, 10_000),
    (1, 2, 3, 10_001),
    (2, 4, 2, 10_500),
    (2, 5, 5, 9_999),
]
FILMS = [
    (1, "Fargo", 1996, "Action Drama"),
    (2, "Amélie", 1990, "Comedy"),
    (3, "Unforgiven", 1992, "Action Western"),
    (4, "Early Preview", 2001, "Drama"),
    (5, None, None, "unknown"),
]
PEOPLE = [(1, 24, "technician"), (2, 53, "writer")]


def _grouplens(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.genre").write_text("".join(f"{name}|{i}\n" for i, name in enumerate(GENRES)) + "\n", "latin-1")
    lines = [f"{user}\t{film}\t{stars}\t{day * DAY}\n" for user, film, stars, day in RATINGS]
    (folder / "u.data").write_text("".join(lines), "latin-1")
    films = []
    for film, title, year, genres in FILMS:
        marks = "|".join(str(int(name in genres.split())) for name in GENRES)
        full, released = (f"{title} ({year}) ", f"01-Jan-{year}") if year else ("unknown", "")
        films.append(f"{film}|{full}|{released}||http://example.org|{marks}\n")
    (folder / "u.item").write_bytes("".join(films).encode("latin-1"))
    (folder / "u.user").write_text("".join(f"{u}|{age}|F|{job}|00000\n" for u, age, job in PEOPLE), "latin-1")
    return folder


def _recbole(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{film}\t{stars}\t{day * DAY}\n" for user, film, stars, day in RATINGS]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml-100k.inter").write_text(header + "".join(lines), "utf-8")
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    films = [f"{film}\t{title or 'unkonwn'}\t{year or 'unkonwn'}\t{genres}\n" for film, title, year, genres in FILMS]
    (folder / "ml-100k.item").write_text(header + "".join(films), "utf-8")
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    people = [f"{user}\t{age}\tF\t{job}\t00000\n" for user, age, job in PEOPLE]
    (folder / "ml-100k.user").write_text(header + "".join(people), "utf-8")
    return folder


def _sums(folder: Path) -> dict[str, dict[str, str]]:
    """Checksums of hand-made copies, for both layouts."""
    return {
        layout.name: {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in layout.files
            if (folder / name).is_file()
        }
        for layout in LAYOUTS
    }


def test_both_layouts_hold_the_same(tmp_path: Path) -> None:
    """Expect the two layouts of the same data to be read equal, accents and the film without a title included."""
    ours, theirs = read_grouplens(_grouplens(tmp_path / "g")), read_recbole(_recbole(tmp_path / "r"))
    assert ours == theirs
    assert [film.title for film in ours.films] == ["Fargo", "Amélie", "Unforgiven", "Early Preview", "unknown"]
    assert to_tables(ours).equals(to_tables(theirs))


def test_the_mapping_is_as_documented(tmp_path: Path) -> None:
    """Expect films as posts of their rarest genre, ratings as actions, and raters apart from channels."""
    tables = to_tables(read_grouplens(_grouplens(tmp_path)))
    check_tables(tables)
    items, users = tables.items, tables.users
    assert items.text.tolist()[:2] == ["Fargo (1996) · Action, Drama", "Amélie (1990) · Comedy"]
    assert items.text[4] == "unknown · unknown"
    # Action and Drama have two films each: the earlier in the alphabet; Western has one.
    assert items.topic.tolist() == ["Action", "Comedy", "Western", "Drama", "unknown"]
    channels = dict(zip(users.user_id.tolist(), users.name.tolist(), strict=True))
    assert [channels[author] for author in items.author_id.tolist()] == [f"{topic} channel" for topic in items.topic]
    assert users.user_id.tolist()[:2] == [1, 2]
    assert users.name[0] == "technician, 24 (rater 1)"
    assert (users.user_id[2:] >= CHANNEL_IDS_FROM).all()
    rows = [
        (user, item, time // (DAY * 1000), EVENT_ACTIONS[action])
        for user, item, time, action in zip(
            tables.events.user_id.tolist(),
            tables.events.item_id.tolist(),
            tables.events.time.tolist(),
            tables.events.action.tolist(),
            strict=True,
        )
    ]
    assert rows == [
        (2, 5, 9_999, "favorite"),
        (2, 5, 9_999, "share"),
        (2, 1, 10_000, "not_interested"),
        (1, 1, 10_001, "favorite"),  # before film 2, as in the file
        (1, 2, 10_001, "dwell"),
        (2, 4, 10_500, "not_interested"),
        (1, 3, 11_000, "favorite"),
        (1, 3, 11_000, "share"),
    ]
    assert not tables.events.is_valid("value").any()


def test_films_are_no_younger_than_their_first_rating(tmp_path: Path) -> None:
    """Expect 1 January of the year of release, or the first rating where that is earlier or the year unknown."""
    items = to_tables(read_grouplens(_grouplens(tmp_path))).items
    for row, year in ((0, 1996), (1, 1990)):
        assert items.created_at[row] == int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) * 1000
    assert items.created_at[3] == 10_500 * DAY * 1000
    assert items.created_at[4] == 9_999 * DAY * 1000


def test_ratings_must_name_known_films_and_people(tmp_path: Path) -> None:
    """Expect a rating of an unknown film to be told."""
    _grouplens(tmp_path)
    with (tmp_path / "u.data").open("a", encoding="latin-1") as file:
        file.write("1\t99\t5\t5\n")
    with pytest.raises(DataError, match="a rating names person 1 and film 99"):
        to_tables(read_grouplens(tmp_path))


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("u.data", "1\t1\t5\n", r"u\.data, line 7: wanted 4 fields, found 3"),
        ("u.data", "1\tx\t5\t5\n", r"line 7: film: wanted a whole number, found 'x'"),
        ("u.data", "1\t1\t6\t5\n", r"line 7: rating: wanted 1 to 5, found 6"),
        ("u.data", "1\t1\t5\tinf\n", r"line 7: time: wanted a whole number, found 'inf'"),
        ("u.item", "9|Title|x\n", r"u\.item, line 6: wanted 10 fields, found 3"),
        ("u.user", "9|young|F|x|0\n", r"u\.user, line 3: age: wanted a whole number"),
    ],
)
def test_lines_that_are_wrong_are_named(name: str, line: str, message: str, tmp_path: Path) -> None:
    """Expect a bad line to be told with file, line number, what was wanted and what was found."""
    _grouplens(tmp_path)
    with (tmp_path / name).open("a", encoding="latin-1") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        read_grouplens(tmp_path)


def test_headers_of_the_other_layout_are_checked(tmp_path: Path) -> None:
    """Expect a file of that layout with another header to be told, and text in another encoding too."""
    _recbole(tmp_path)
    (tmp_path / "ml-100k.user").write_text("user\tage\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"ml-100k\.user, line 1: wanted the header"):
        read_recbole(tmp_path)
    (tmp_path / "ml-100k.inter").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"ml-100k\.inter: not utf-8 text"):
        read_recbole(tmp_path)


@pytest.mark.parametrize("make", [_grouplens, _recbole])
@pytest.mark.parametrize("nested", [False, True])
def test_a_local_copy_becomes_a_data_directory(make: Any, nested: bool, tmp_path: Path) -> None:
    """Expect `--from` to take either layout, also one folder down, print the terms, and write everything."""
    copy = make(tmp_path / "copy" / "ml-100k" if nested else tmp_path / "copy")
    said: list[str] = []
    made = fetch_ml_100k(tmp_path / "out", tmp_path / "copy", say=said.append, checksums=_sums(copy))
    assert said[0] == TERMS
    data = DataDirectory(tmp_path / "out")
    assert data.tables().equals(made.tables)
    info = data.info()
    assert info.now == dt.datetime.fromtimestamp(11_000 * DAY + 1, dt.UTC)
    assert info.defaults == {"viewer": 1}
    assert "components.age.max_age" in info.overrides
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out"]


def test_the_terms_say_what_must_be_said() -> None:
    """Expect the printed terms to name research, acknowledgement, redistribution, commerce and endorsement."""
    for word in ("research", "acknowledge", "redistribute", "commercial", "endorsement", "GroupLens"):
        assert word in TERMS


def test_files_that_are_not_the_real_ones_are_refused(tmp_path: Path) -> None:
    """Expect a checksum that differs to stop everything before anything is written."""
    copy = _grouplens(tmp_path / "copy")
    with pytest.raises(DataError, match=r"u\.data: not the file of MovieLens 100K as GroupLens has it: SHA-256"):
        fetch_ml_100k(tmp_path / "out", copy)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_the_files_is_told(tmp_path: Path) -> None:
    """Expect a local copy that is none to be told with the files that were wanted."""
    with pytest.raises(DataError, match=r"wanted u\.data, u\.item, .* or ml-100k\.inter"):
        fetch_ml_100k(tmp_path / "out", tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        fetch_ml_100k(tmp_path / "out", tmp_path / "nowhere")


def test_the_next_source_is_tried_where_one_cannot_be_reached(tmp_path: Path) -> None:
    """Expect an unreachable source to be told and the next one to be used; all unreachable: one error with both."""

    def unreachable(_folder: Path) -> Layout:
        raise SourceUnavailableError("example.org cannot be reached: no route")

    def local(folder: Path) -> Layout:
        _grouplens(folder)
        return GROUPLENS

    said: list[str] = []
    sums = _sums(_grouplens(tmp_path / "copy"))
    made = fetch_ml_100k(
        tmp_path / "out", say=said.append, sources=(("first", unreachable), ("second", local)), checksums=sums
    )
    assert made.source == "second"
    assert "  example.org cannot be reached: no route" in said
    with pytest.raises(DataError, match=r"(?s)could not be fetched:.*no route.*no route.*--from DIR"):
        fetch_ml_100k(tmp_path / "out2", sources=(("first", unreachable), ("second", unreachable)))
    assert not (tmp_path / "out2").exists()


def test_a_source_with_wrong_content_is_not_passed_over(tmp_path: Path) -> None:
    """Expect a reachable source with another file in it to be an error, not a reason to try the next."""

    def tampered(folder: Path) -> Layout:
        _grouplens(folder)
        (folder / "u.data").write_text("1\t1\t5\t5\n", encoding="utf-8")
        return GROUPLENS

    sums = _sums(_grouplens(tmp_path / "copy"))
    with pytest.raises(DataError, match=r"u\.data: not the file"):
        fetch_ml_100k(tmp_path / "out", sources=(("a", tampered), ("b", tampered)), checksums=sums)


def test_a_taken_place_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    """Expect an existing data directory to stop the fetch at once, and force to replace it."""
    copy = _grouplens(tmp_path / "copy")
    fetch_ml_100k(tmp_path / "out", copy, checksums=_sums(copy))

    def never(_folder: Path) -> Layout:
        raise AssertionError("fetched")

    with pytest.raises(DataError, match="there is a data directory already"):
        fetch_ml_100k(tmp_path / "out", sources=(("never", never),))
    fetch_ml_100k(tmp_path / "out", copy, force=True, checksums=_sums(copy))
    assert len(read_tables(tmp_path / "out").items) == len(FILMS)


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_args, **_options: io.BytesIO(content))


def test_the_archive_is_unpacked_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the four files out of the archive, and nothing for members with paths that lead elsewhere."""
    copy = _grouplens(tmp_path / "copy")
    members = {f"ml-100k/{name}": (copy / name).read_bytes() for name in GROUPLENS.files}
    _serve(monkeypatch, _archive({**members, "../evil": b"x", "/evil": b"x", "ml-100k/u1.base": b"x"}))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert from_grouplens(folder) is GROUPLENS
    assert sorted(path.name for path in folder.iterdir()) == sorted(GROUPLENS.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "folder"]
    check_files(folder, GROUPLENS, _sums(copy)["GroupLens"])


def test_what_is_not_the_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a page instead of an archive, an archive without the files, and floods of bytes to be told."""
    _serve(monkeypatch, b"<html>Sign in to the network</html>")
    with pytest.raises(DataError, match="not the archive of MovieLens 100K"):
        from_grouplens(tmp_path)
    _serve(monkeypatch, _archive({"readme": b"x"}))
    with pytest.raises(DataError, match="There is no item named"):
        from_grouplens(tmp_path)
    monkeypatch.setattr(sources_module, "_MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        from_grouplens(tmp_path)
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(_archive({"ml-100k/u.data": b"0" * 1000}))
    monkeypatch.setattr(sources_module, "_MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match=r"u\.data is larger than 100 bytes"):
        unpack(bomb, tmp_path)


def test_no_network_is_an_unavailable_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect a name that does not resolve, and a stalled connection, to be told as a source out of reach."""
    for trouble in (urllib.error.URLError("Name or service not known"), TimeoutError("timed out")):

        def fail(*_args: Any, _trouble: Exception = trouble, **_options: Any) -> None:
            raise _trouble

        monkeypatch.setattr("urllib.request.urlopen", fail)
        with pytest.raises(SourceUnavailableError, match=r"cannot be reached: (Name or service|timed out)"):
            from_grouplens(tmp_path)


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_the_wheel_is_unpacked_with_uv_or_pip(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect one install of the pinned wheel, without dependencies or builds, and only its data files kept."""
    monkeypatch.setattr("shutil.which", lambda _name: "/bin/uv" if tool == "uv" else None)
    calls: list[list[str]] = []

    def install(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--target") + 1])
        _recbole(target / "recbole" / "dataset_example" / "ml-100k")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", install)
    assert from_recbole(tmp_path).name == "recbole"
    assert {"--no-deps", "--only-binary", "recbole==1.2.1"} <= set(calls[0])
    assert ("/bin/uv" in calls[0]) == (tool == "uv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml-100k.inter", "ml-100k.item", "ml-100k.user"]


def test_an_index_out_of_reach_is_an_unavailable_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect the installer's last line in the message, and a wheel without the files to be another error."""

    def fail(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "trying\nno route to the index\n")

    monkeypatch.setattr("subprocess.run", fail)
    with pytest.raises(SourceUnavailableError, match=r"could not get recbole==1\.2\.1: no route to the index"):
        from_recbole(tmp_path)

    def stall(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr("subprocess.run", stall)
    with pytest.raises(SourceUnavailableError, match="timed out after 300 seconds"):
        from_recbole(tmp_path)
    monkeypatch.setattr("subprocess.run", lambda command, **_options: subprocess.CompletedProcess(command, 0, "", ""))
    with pytest.raises(DataError, match=r"ml-100k\.inter in the wheel"):
        from_recbole(tmp_path)


# Follows.


def _slow_follows(items: Items, events: Events) -> set[tuple[int, int, int]]:
    """The documented rule, word by word."""
    author = dict(zip(items.item_id.tolist(), items.author_id.tolist(), strict=True))
    found: dict[tuple[int, int], int] = {}
    rows = list(
        zip(events.user_id.tolist(), events.item_id.tolist(), events.time.tolist(), events.action.tolist(), strict=True)
    )
    for time in sorted({row[2] for row in rows}):
        past = [row for row in rows if row[2] <= time]
        for user in {row[0] for row in past}:
            for channel in set(author.values()):
                acted = {(i, t) for u, i, t, _a in past if u == user and author[i] == channel}
                liked = {
                    (i, t) for u, i, t, a in past if u == user and author[i] == channel and a == ACTION_CODE["favorite"]
                }
                if len(liked) >= MIN_FAVORITES and len(liked) >= MIN_SHARE * len(acted) and user != channel:
                    found.setdefault((user, channel), time)
    return {(user, channel, time) for (user, channel), time in found.items()}


_ITEMS = Items.build(
    item_id=range(1, 9), author_id=[101, 101, 101, 101, 102, 102, 102, 102], created_at=[0] * 8, text=["x"] * 8
)
_ACTED = st.tuples(
    st.integers(1, 2), st.integers(1, 8), st.integers(0, 9), st.sampled_from(["favorite", "favorite", "dwell", "share"])
)


def _events(rows: list[tuple[int, int, int, str]]) -> Events:
    return Events.build(
        user_id=[row[0] for row in rows],
        item_id=[row[1] for row in rows],
        time=[row[2] for row in rows],
        action=[row[3] for row in rows],
    )


def _triples(items: Items, events: Events, before_ms: int | None = None) -> set[tuple[int, int, int]]:
    edges = follows_from(items, events, before_ms)
    return set(zip(edges.src.tolist(), edges.dst.tolist(), edges.created_at.tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_ACTED, max_size=30), before=st.integers(0, 10), order=st.randoms())
def test_follows_look_at_nothing_but_the_past(rows: list[tuple[int, int, int, str]], before: int, order: Any) -> None:
    """Expect the documented rule; the edges before t to be those of the events before t; and no say for the order."""
    whole = _triples(_ITEMS, _events(rows))
    assert whole == _slow_follows(_ITEMS, _events(rows))
    assert _triples(_ITEMS, _events(rows), before) == {edge for edge in whole if edge[2] < before}
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert _triples(_ITEMS, _events(shuffled)) == whole


def test_what_was_only_shown_makes_no_follow() -> None:
    """Expect impressions without an action, and events of unknown items, to count neither for nor against."""
    liked = [(1, item, item, "favorite") for item in (1, 2, 3)]
    shown = [(1, item, 0, "impression") for item in (1, 2, 3, 4)]
    assert _triples(_ITEMS, _events([*shown, *liked, (1, 77, 2, "dwell")])) == {(1, 101, 3)}


# The real data.


@pytest.mark.skipif(not SHARED.is_dir(), reason="no copy of MovieLens-100K beside the checkout")
def test_the_real_data_set_maps_as_it_should(tmp_path: Path) -> None:
    """Expect 943 raters, 1,682 films, 100,000 ratings in order, sensible follows, and readable films."""
    made = fetch_ml_100k(tmp_path / "ml", SHARED)
    tables = read_tables(tmp_path / "ml")
    assert tables.equals(made.tables)
    assert len(tables.users) == 943 + 19
    assert len(tables.items) == 1682
    pairs = np.stack([tables.events.user_id, tables.events.item_id])
    assert np.unique(pairs, axis=1).shape[1] == 100_000
    codes = tables.events.action
    ratings = np.loadtxt(SHARED / "u.data", dtype=np.int64)
    stars = np.bincount(ratings[:, 2])
    assert (codes == ACTION_CODE["favorite"]).sum() == stars[4] + stars[5]
    assert (codes == ACTION_CODE["share"]).sum() == stars[5]
    assert (codes == ACTION_CODE["dwell"]).sum() == stars[3]
    assert (codes == ACTION_CODE["not_interested"]).sum() == stars[1] + stars[2]
    by_time = ratings[np.argsort(ratings[:, 3], kind="stable")]
    first = np.concatenate([[True], (np.diff(pairs, axis=1) != 0).any(axis=0)])
    np.testing.assert_array_equal(pairs[:, first].T, by_time[:, :2])
    assert "Fargo (1996) · Crime, Drama, Thriller" in tables.items.text.tolist()
    first_rated = np.full(1683, 2**62)
    np.minimum.at(first_rated, ratings[:, 1], ratings[:, 3] * 1000)
    assert (tables.items.created_at <= first_rated[tables.items.item_id]).all()
    follows = np.bincount(tables.edges.src, minlength=944)[1:944]
    assert 4 <= np.median(follows) <= 8
    assert made.tables.users.name[-1] == "unknown channel"
