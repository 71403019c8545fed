"""What `diff` and `replay --swap` print."""

from __future__ import annotations

import asyncio
import io
import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
from ranked import REGISTRY, SPEC, Boost, Top, Weighted, answer, heads, ranked_app
from rich.cells import cell_len
from rich.console import Console

from candidate_pipeline import MisconfigurationError, RequestError, load_document
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.cli.pictures_diff import print_diff, print_diffs
from candidate_pipeline.cli.pictures_swap import print_swap
from candidate_pipeline.errors import CaptureError
from candidate_pipeline.spec.document import Document
from candidate_pipeline.what_if.capture import Captures
from candidate_pipeline.what_if.diff import Diff, diff
from candidate_pipeline.what_if.ranking import Ranking
from candidate_pipeline.what_if.swap import SwapOption, SwapResult

ROWS = {1: (0.9, 0.1), 2: (0.2, 0.3), 3: (0.5, 0.0), 4: (0.0, 0.08), 5: (0.3, 0.0), 6: (0.02, 0.0)}
TEXTS = {1: "the [first] of them", 2: "日本語のとても長い文章です" * 5, 3: "three\nlines"}


def drawn(draw: Any, *args: Any, width: int = 80, encoding: str = "utf-8", **settings: Any) -> str:
    """What is printed on a terminal of a width, without colours."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    draw(Console(file=file, width=width, highlight=False, legacy_windows=False), *args, **settings)
    return file.buffer.getvalue().decode(encoding)


def ranking(reply: float, boost: float, **stages: Any) -> Ranking:
    """A ranking of the items."""
    scorers = (("weighted", Weighted({"reply": reply})), ("boost", Boost(boost)))
    return Ranking.of(answer(ranked_app(heads(ROWS), *scorers, **stages)))


@pytest.fixture(scope="module")
def found() -> Diff:
    """A difference with items that moved, came, and left."""
    return diff(ranking(0.5, 2.0, drop=5), ranking(5.0, 1.5, drop=3))


def test_a_difference_is_drawn(found: Diff) -> None:
    """Expects ranks, arrows, distances, tracks, scores, texts, terms with bars, and reasons."""
    text = drawn(print_diff, found, texts=TEXTS)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:6] == [
        "ranked r",
        "2 moved, 1 added, 1 left, 0 unchanged",
        f"overlap {found.overlap:.3f}  tau -1.000  rbo {found.rbo:.3f}  largest move 1",
        "    2 ▲     1   +1  ●○    2  0.7 → 2.55",
        "       日本語のとても長い文章です日本語のとても長い文章です日本語のとても長い文…",
        "       reply      +2.362 ████████████████  0.15 → 1.5",
    ]
    assert any(line.startswith("       x boost   -0.5125 ▒▒▒") for line in lines)
    assert any(line.startswith("    1 ▼     2   -1  ") for line in lines)
    assert any(line.startswith("  (4) +     3") for line in lines)
    assert any(line.startswith("    3 ×     -") for line in lines)
    assert lines[-2:] == ["       three lines", "       dropped by drop"]
    assert "the [first] of them" in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_pictures_fit_the_terminal(found: Diff, width: int, encoding: str) -> None:
    """Expects no line wider than the terminal, and nothing that its encoding lacks."""
    several = [
        found,
        attrs.evolve(found, request_id="a very long request id " * 3),
        diff(ranking(1.0, 1.0), ranking(1.0, 1.0)),
    ]
    for text in (
        drawn(print_diff, found, texts=TEXTS, width=width, encoding=encoding, title="an é title"),
        drawn(print_diffs, several, width=width, encoding=encoding, title="several"),
        drawn(print_swap, SWAP, width=width, encoding=encoding),
    ):
        assert max(cell_len(line) for line in text.splitlines()) <= width
        assert "2" in text


def test_nothing_moved(found: Diff) -> None:
    """Expects to be told so, and of scores that changed all the same."""
    same = ranking(1.0, 1.0)
    assert drawn(print_diff, diff(same, same)).splitlines()[1] == "nothing moved: 3 items stand where they stood"
    text = drawn(print_diff, diff(same, ranking(1.1, 1.0)))
    assert text.endswith("stand where they stood, 2 of them with another score\n")


def test_the_furthest_are_drawn_first(found: Diff) -> None:
    """Expects, of too many changes, those that came and went before those that moved, and a count of the rest."""
    text = drawn(print_diff, found, limit=2)
    assert "2 more changed; --limit shows more" in text
    assert "▲" not in text
    assert " + " in text
    assert " × " in text


def test_an_item_whose_score_rose_and_that_fell_says_who_passed_it() -> None:
    """Expects the names of those that passed it below its terms, and reasons where there are no terms."""
    table = heads({1: (0.9, 0.1), 3: (0.5, 0.5), 5: (0.4, 0.0), 7: (0.39, 0.01)})
    before, after = (
        Ranking.of(answer(ranked_app(table, ("weighted", Weighted({"reply": reply})), selector=("top", Top(4)))))
        for reply in (0.0, 9.0)
    )
    text = drawn(print_diff, diff(before, after))
    assert "       1 item passed it (3)\n" in text
    assert "       its score is the same; 1 item passed it (7)\n" in text


def test_further_terms_and_what_no_term_accounts_for(found: Diff) -> None:
    """Expects the sum of terms that are not drawn, and a remainder that matters."""
    change = found.moved[0]
    term = change.score.terms[0]
    terms = tuple(attrs.evolve(term, label=f"label {at}", effect=0.25) for at in range(5))
    score = attrs.evolve(change.score, terms=terms, remainder=0.6)
    text = drawn(print_diff, attrs.evolve(found, moved=(attrs.evolve(change, score=score),), added=(), dropped=()))
    assert "       2 further terms +0.5\n" in text
    assert "       no term accounts for +0.6\n" in text


def test_several_requests_have_a_line_each(found: Diff) -> None:
    """Expects a table with the least alike first, means over all, and the terms with the largest effects."""
    same = diff(ranking(1.0, 1.0), ranking(1.0, 1.0))
    milder = attrs.evolve(found, request_id="milder", rbo=0.9)
    text = drawn(print_diffs, [same, milder, found], title="two specs")
    lines = text.splitlines()
    assert lines[:3] == [
        "two specs",
        "3 requests: 2 changed, 1 did not",
        "request      moved  added   left  overlap    tau    rbo  furthest",
    ]
    assert [line.split()[0] for line in lines[3:6]] == ["r", "milder", "mean"]
    assert [line.split()[0] for line in lines[7:]] == ["reply", "x"]
    assert "  4 items" in lines[7] or "  6 items" in lines[7]
    assert "1 more changed" in drawn(print_diffs, [same, milder, found], limit=1)
    assert drawn(print_diffs, [same, same]) == "2 requests: 0 changed, 2 did not\n"
    assert drawn(print_diffs, [found], texts=[TEXTS]) == drawn(print_diff, found, texts=TEXTS)


# Swaps

SWAP = SwapResult(
    ahead="22",
    behind="7",
    rank_ahead=1,
    rank_behind=None,
    found=(
        SwapOption("weighted.weights.reply", 5.0, 7.01, 7.0, 2.01, 0.402, -1.0, 9.0, "components.weighted.x=7.01"),
        SwapOption("boost.factor", 1.0, 3.0, 3.0, 2.0, 2.0, 0.0, 4.0),
    ),
    failed=(
        SwapOption("top.size", 3, lowest=1, highest=3003, note="it does not swap them"),
        SwapOption("open", 3, lowest=math.nextafter(0.0, 1.0), highest=4.5, note="5 was refused: no"),
        SwapOption("a.b", 1.0, note="it changes nothing here"),
        SwapOption("a.c", 1.0, note="it changes nothing here"),
        SwapOption("a.d", 1.0, note="not searched"),
    ),
    replays=77,
)


def test_a_swap_is_printed() -> None:
    """Expects each option that can, its change, how to try it, and why the others cannot."""
    assert drawn(print_swap, SWAP) == (
        "7 (not in the response) ahead of 22 (rank 1)\n"
        "option                        now     needed     change   relative\n"
        "weighted.weights.reply          5       7.01      +2.01      40.2%\n"
        "boost.factor                    1          3         +2     200.0%\n"
        "try it: --set components.weighted.x=7.01\n"
        "top.size cannot: it does not swap them (tried from 1 to 3003)\n"
        "open cannot: 5 was refused: no (tried from 0 to 4.5)\n"
        "change nothing here: a.b, a.c\n"
        "were not searched: a.d\n"
        "ranked again 77 times; the search was not finished\n"
    )
    assert "1 more can; --limit shows more" in drawn(print_swap, SWAP, limit=1)


def test_a_swap_that_cannot_be() -> None:
    """Expects the reason, or that nothing that was tried does it."""
    none = attrs.evolve(SWAP, found=(), failed=(), complete=True)
    assert "no single change that was tried does it\nranked again 77 times\n" in drawn(print_swap, none)
    assert drawn(print_swap, attrs.evolve(none, reason="age drops 7")).endswith("no weight can do it: age drops 7\n")


# Commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, another one, and captures of two requests."""
    folder = tmp_path_factory.mktemp("diff")
    (folder / "one.toml").write_text(SPEC)
    (folder / "two.toml").write_text(SPEC.replace("[components.boost]", "weights = { reply = 9 }\n[components.boost]"))

    async def record() -> None:
        captures = Captures(folder / "captures")
        async with load_document(Document(SPEC, "one.toml"), registry=REGISTRY, captures=captures) as app:
            for name in ("first", "second"):
                await app["ranked"].run(request_id=name, capture=True)

    asyncio.run(record())
    return folder


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs a command in the folder and returns what it prints."""
    monkeypatch.setattr("candidate_pipeline.app.installed", lambda: REGISTRY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments: str) -> str:
        build_group("candidate-pipeline", dict(BUILTIN)).main(list(arguments), standalone_mode=False)
        return capsys.readouterr().out

    return command


def test_diff_compares_two_specs(command: Any, folder: Path) -> None:
    """Expects what moved between them, with the pipeline's texts, for one request and for several."""
    (path, _) = sorted((folder / "captures").iterdir())
    text = command("diff", "one.toml", "two.toml", "--captures", str(path))
    assert text.startswith("before: one.toml; after: two.toml\n2 moved, 1 unchanged\n")
    assert "    2 ▲     1   +1" in text
    assert "\n       two\n       reply" in text
    text = command("diff", "one.toml", "--set", "components.weighted.weights.reply=9", "--captures", "captures")
    assert text.splitlines()[:2] == [
        "before: one.toml; after: one.toml --set components.weighted.weights.reply=9",
        "2 requests: 2 changed, 0 did not",
    ]
    assert "nothing moved" in command("diff", "one.toml", "one.toml", "--captures", str(path))


def test_diff_gives_json(command: Any) -> None:
    """Expects every request's difference as plain data, over as many rows as asked for."""
    found = json.loads(
        command("diff", "one.toml", "two.toml", "--captures", "captures", "--format", "json", "--top", "1")
    )
    assert [each["request_id"] for each in found["requests"]] == ["first", "second"]
    assert found["requests"][0]["size_before"] == 1
    assert found["requests"][0]["added"][0]["item_id"] == 2
    assert found["requests"][0]["before_hash"] != found["requests"][0]["after_hash"]


def test_diff_tells_of_mistakes(command: Any, tmp_path: Path) -> None:
    """Expects errors for nothing to compare with, no captures, and requests that fail under one of the specs."""
    with pytest.raises(MisconfigurationError, match="nothing to compare with"):
        command("diff", "one.toml", "--captures", "captures")
    with pytest.raises(CaptureError, match="no captures"):
        command("diff", "one.toml", "two.toml", "--captures", str(tmp_path))
    with pytest.raises(CaptureError, match="no such file"):
        command("diff", "one.toml", "two.toml", "--captures", "nowhere")
    (tmp_path / "other.toml").write_text(SPEC.replace("[pipelines.ranked]", "[pipelines.other]"))
    with pytest.raises(MisconfigurationError, match="no pipeline named 'ranked'"):
        command("diff", "one.toml", str(tmp_path / "other.toml"), "--captures", "captures")


def test_diff_of_requests_that_fail(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expects how many could not be ranked, and why the first could not."""

    def fail(*_: Any) -> Any:
        raise RequestError("out of order")

    monkeypatch.setattr(Boost, "score", fail)
    with pytest.raises(RequestError, match=r"2 of 2 captures could not be ranked again; .*first.*out of order"):
        command("diff", "one.toml", "two.toml", "--captures", "captures")


def test_a_damaged_capture_does_not_keep_the_others_from_being_compared(
    command: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expects the comparison of the others, and then an error that names the damaged one and why."""
    (path, _) = sorted((folder / "captures").iterdir())
    (tmp_path / "good.capture").write_bytes(path.read_bytes())
    (tmp_path / "bad.capture").write_bytes(path.read_bytes()[:500])
    words = ("diff", "one.toml", "two.toml", "--captures", str(tmp_path), "--format", "json")
    with pytest.raises(RequestError, match=r"1 of 2 captures could not .*bad\.capture: not a capture, or a damaged"):
        command(*words)
    bad, good = json.loads(capsys.readouterr().out)["requests"]
    assert (bad["request_id"], good["request_id"]) == (None, "first")
    assert "damaged" in bad["error"]


def test_replay_finds_the_smallest_swap(command: Any, folder: Path) -> None:
    """Expects the options that can, as text and as plain data."""
    (path, _) = sorted((folder / "captures").iterdir())
    text = command("replay", str(path), "--config", "one.toml", "--swap", "1", "2")
    assert text.startswith("2 (rank 2) ahead of 1 (rank 1)\noption ")
    assert "weighted.weights.reply          5       7." in text
    found = json.loads(command("replay", str(path), "--config", "one.toml", "--swap", "1", "2", "--format", "json"))
    assert {each["option"] for each in found["found"]} >= {"weighted.weights.reply"}
