"""What resources and components say about themselves, and `candidate-pipeline run --repeat`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from rich.console import Console
from toys import best_first, three_rows

from candidate_pipeline import ITEM_ID, SCORE, Candidates, MisconfigurationError, Plugin, Registry, compose, patch
from candidate_pipeline.cli import BUILTIN
from candidate_pipeline.cli.commands import build_group
from candidate_pipeline.cli.render import print_reports
from candidate_pipeline.testing import TopScore


@attrs.define
class Counter:
    """A resource that counts what it was asked."""

    says: Any = None
    asked: int = 0

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def report(self) -> Mapping[str, Any]:
        """The count, or what the test wants."""
        if isinstance(self.says, Exception):
            raise self.says
        return {"asked": self.asked} if self.says is None else self.says


@attrs.define
class Silent:
    """A resource with nothing to say, whose `report` is a value of its own."""

    report: str = "weekly"

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""


def reports_of(make: Any, *resources: Any, **scorer: Any) -> dict[str, Any]:
    """The reports of an application after one request."""
    app = compose(
        "toy",
        sources=[make("source", three_rows, "source")],
        scorers=[make("scorer", lambda q, c, ctx: patch(SCORE(np.zeros(len(c)))), "model", writes=[SCORE], **scorer)],
        selector=make("selector", best_first, "top"),
        resources=resources,
    )
    with app:
        app["toy"].run_sync()
        return app.reports()


def test_reports_are_collected_by_name(make: Any) -> None:
    """Resources that report are asked, under their names, and components under pipeline and name; others are not."""
    component = {"report": lambda self: {"rows_seen": 3, "share": None}}
    found = reports_of(make, Counter(asked=2), Silent(), **component)
    assert found == {"resource 0": {"asked": 2}, "toy.model": {"rows_seen": 3, "share": None}}


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (ValueError("no count"), "ValueError: no count"),
        (7, "TypeError: 'int' object is not iterable"),
        ({"sizes": [1, 2]}, "TypeError: wanted text, a number or None under a text, found 'sizes': [1, 2]"),
        ({3: 1}, "TypeError: wanted text, a number or None under a text, found 3: 1"),
        ({"count": np.int64(3)}, "TypeError: wanted text, a number or None under a text, found 'count': np.int64(3)"),
    ],
)
def test_a_report_that_fails_spoils_nothing(make: Any, says: Any, why: str) -> None:
    """What goes wrong in a report stands in its place; the others are there."""
    assert reports_of(make, Counter(says), Counter()) == {
        "resource 0": {"report_failed": why},
        "resource 1": {"asked": 0},
    }


def test_a_closed_application_has_no_reports(make: Any) -> None:
    """Reports are of an open application."""
    app = compose("toy", sources=[make("source", three_rows, "s")], selector=make("selector", best_first, "t"))
    with pytest.raises(MisconfigurationError, match="not open"):
        app.reports()


def printed(reports: Mapping[str, Any]) -> str:
    """The table of reports on a wide terminal."""
    out = io.StringIO()
    print_reports(Console(file=out, width=250), reports)
    return out.getvalue()


def test_values_are_shown_in_their_units() -> None:
    """Underscores become spaces; bytes, milliseconds and rates are shown as such; markup is shown as it is."""
    text = printed(
        {
            "model": {
                "backend": "[fast]",
                "prefix_hits": 2,
                "prefix_hit_rate": 2 / 3,
                "none_rate": None,
                "prefix_bytes": 3 * 2**20 // 2,
                "small_bytes": 1023,
                "longest_wait_ms": 1.25,
                "bytes": 5,
                "on": True,
            },
            "broken": {"report_failed": "OSError: no [/line]"},
        }
    )
    said = (
        "backend [fast], prefix hits 2, prefix hit rate 67%, none rate -, prefix 1.5 MiB, small 1023 B, longest wait "
    )
    assert said + "1.25 ms, bytes 5, on yes" in text
    assert "report failed OSError: no [/line]" in text
    assert printed({}) == ""


@attrs.frozen
class Counted:
    """A source that counts its calls in a resource."""

    counter: Counter
    reads: ClassVar = ()
    writes: ClassVar = (SCORE,)

    def fetch(self, query: Any, ctx: Any) -> Candidates:
        """Two rows."""
        self.counter.asked += 1
        return Candidates.of(ITEM_ID([1, 2]), SCORE([0.5, 1.0]))


SPEC = """
schema = 1

[pipelines.toy]
sources = ["count.source"]
selector = "count.top"

[resources.counter]
use = "count.counter"
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a pipeline with a resource that counts, and returns what is printed."""
    plugin = Plugin(
        "count",
        components={"source": {"source": Counted}, "selector": {"top": TopScore}, "resource": {"counter": Counter}},
    )
    document = tmp_path / "toy.toml"
    document.write_text(SPEC)
    monkeypatch.setattr("candidate_pipeline.app.installed", lambda: Registry([plugin]))
    monkeypatch.setenv("COLUMNS", "160")

    def command(*arguments: str) -> str:
        words = ["run", "toy", "--config", str(document), *arguments]
        build_group("candidate-pipeline", dict(BUILTIN)).main(words, standalone_mode=False)
        return capsys.readouterr().out

    return command


def test_run_prints_reports(command: Any) -> None:
    """`run` prints the reports below the funnel, and as JSON among the result."""
    text = command()
    assert "│ counter │ asked 1 │" in text
    assert "served" not in text
    found = json.loads(command("--format", "json"))
    assert found["reports"] == {"counter": {"asked": 1}}
    assert len(found["runs_ms"]) == 1


def test_run_repeats_a_request(command: Any) -> None:
    """`--repeat` serves the same request in one process, and gives the last answer with every time."""
    text = command("--repeat", "3")
    assert "│ counter │ asked 3 │" in text
    assert text.count("funnel") == 1
    assert "served 3 times: " in text
    found = json.loads(command("--repeat", "2", "--format", "json", "--now", "2026-05-01T12:00:00Z"))
    assert found["reports"]["counter"] == {"asked": 2}
    assert found["runs_ms"][1] == found["elapsed_ms"]
    assert len(found["runs_ms"]) == 2
    assert found["now"] == "2026-05-01T12:00:00+00:00"
