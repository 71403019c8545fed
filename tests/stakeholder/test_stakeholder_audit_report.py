"""The audit's report: findings, the page, the terminal's tables and the plots, on audits made of drawn numbers."""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from rich.console import Console
from stakeholder_audits import made_audit

from candidate_pipeline_stakeholder.audit.disagreement import _words as disagreement_words
from candidate_pipeline_stakeholder.audit.document import (
    HIDDEN,
    Cell,
    Document,
    Missing,
    Section,
    Text,
    listed,
    number,
    plural,
    share,
    short,
    table,
)
from candidate_pipeline_stakeholder.audit.estimates import Estimate
from candidate_pipeline_stakeholder.audit.html import render_html
from candidate_pipeline_stakeholder.audit.planes import Cloud, _name_points, plane, scatter
from candidate_pipeline_stakeholder.audit.plots import Bar, Line, bars, curves, heat_maps
from candidate_pipeline_stakeholder.audit.record import Audit, DisagreeingPair
from candidate_pipeline_stakeholder.audit.report import build_document, findings
from candidate_pipeline_stakeholder.audit.svg import VARIABLES, label, labels
from candidate_pipeline_stakeholder.audit.table import fit_table, print_document
from candidate_pipeline_stakeholder.audit.wording import interval, mix_text, percent, tidy

VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg> & $\\frac{1}{0}$ url(#x) _日本語\x00\u202e",
)


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.ids: Counter[str] = Counter()
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids[value or ""] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text of the page, on one line."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def audit() -> Audit:
    """An audit with every part."""
    return made_audit()


@pytest.fixture(scope="module")
def document(audit: Audit) -> Document:
    """Its report."""
    return build_document(audit, about="a pipeline on a world", provenance={"seed": 7, "versions": {"numpy": "2"}})


@pytest.fixture(scope="module")
def page(document: Document) -> str:
    """Its page."""
    return render_html(document)


def printed(document: Document, width: int, color: bool = False) -> str:
    """The report in a terminal of that width."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=color, color_system="truecolor" if color else None)
    print_document(console, document)
    return file.getvalue()


def test_the_page_is_well_formed(page: str) -> None:
    """Every element of the page is closed in order, and no two have the same id."""
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>\n<html lang=")
    assert reader.tags["main"] == reader.tags["h1"] == 1
    assert max(reader.ids.values()) == 1


def test_the_page_loads_nothing(page: str) -> None:
    """The page has no address, no script, no picture, font or style from elsewhere, and forbids them."""
    reader = Reader(page)
    assert "http" not in page.replace("http-equiv", "")
    assert not {"script", "img", "link", "iframe", "object", "embed", "image"} & set(reader.tags)
    assert "@import" not in page
    assert "@font-face" not in page
    assert not [each for each in reader.attributes if each[1].startswith("on") or each[1] in {"src", "srcset"}]
    inside = [value for _, name, value in reader.attributes if name in {"href", "clip-path"}]
    assert inside
    assert all(re.fullmatch(r"#[\w-]+|url\(#[\w-]+\)", value) for value in inside)
    policy = next(value for tag, name, value in reader.attributes if tag == "meta" and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'")


def test_links_within_the_page_lead_somewhere(page: str) -> None:
    """What the page and its figures refer to is there."""
    reader = Reader(page)
    wanted = {
        re.sub(r"^url\(#|^#|\)$", "", value) for _, name, value in reader.attributes if name in {"href", "clip-path"}
    } | {each for _, name, value in reader.attributes if name == "aria-labelledby" for each in value.split()}
    assert wanted <= set(reader.ids)


def test_every_figure_says_what_it_is(page: str) -> None:
    """Each figure has a title, a description for who does not see it, labelled axes, a caption and its control."""
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        assert 'role="img"' in figure
        assert all(re.search(rf"<{tag}[^>]*>[^<]", figure) for tag in ("h3", "title", "desc", "figcaption"))
        assert 'class="control"' in figure
        assert "<text" in figure, "text stays text"
    assert "share of the attainable range" in page


def test_figures_have_no_colours_of_their_own(page: str) -> None:
    """The colours of axes and series are the page's, which sets them for light and dark."""
    assert not [stand_in for stand_in in VARIABLES if stand_in in page]
    assert "var(--ink)" in page
    assert "var(--series-0)" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_has_the_same_bytes_again(audit: Audit, page: str) -> None:
    """The same audit gives the same page, byte for byte."""
    again = build_document(audit, about="a pipeline on a world", provenance={"seed": 7, "versions": {"numpy": "2"}})
    assert render_html(again).encode() == page.encode()


def test_the_page_has_no_date(page: str) -> None:
    """Nothing in the page says when or where it was made."""
    assert "/tmp" not in page  # noqa: S108 - not a file
    assert "<metadata" not in page
    assert not re.search(r"20\d\d-\d\d-\d\d", page)


def test_the_summary_has_three_to_five_findings(page: str, document: Document) -> None:
    """The findings stand at the top, in sentences."""
    assert 3 <= len(document.findings) <= 5
    assert all(finding.endswith(".") and not finding[0].islower() for finding in document.findings)
    assert page.index("In short") < page.index(document.findings[0].split(" (")[0]) < page.index("<nav")


def test_provenance_ends_the_page(page: str) -> None:
    """What the audit was run with stands at the end, whole."""
    end = Reader(page[page.rindex("<section") : page.rindex("</section>") + 10]).text
    assert '"seed": 7' in end
    assert '"rows": 1234' in end


@pytest.fixture(scope="module")
def hostile() -> Document:
    """A report of names that look like code."""
    made = made_audit(HOSTILE, ["<b>favorite</b>", "</svg><script>", "#010101"], groups=["</title>"])
    return build_document(made, about="<i>about</i>", provenance={"<script>": "</pre><script>alert(2)</script>"})


def test_hostile_names_are_shown_and_do_nothing(hostile: Document) -> None:
    """Names that look like HTML, SVG, CSS or TeX are texts in every part of the page."""
    page = render_html(hostile)
    reader = Reader(page)
    assert not {"script", "img", "b", "i"} & set(reader.tags)
    assert not [each for each in reader.attributes if each[1].startswith("on")]
    for name in HOSTILE[:2]:
        assert name in reader.text
    assert "$\\frac{1}{0}$ url(#x) _日本語\ufffd\ufffd" in reader.text
    assert "<i>about</i>" in reader.text
    assert "\x00" not in page
    assert "\u202e" not in page


def test_hostile_names_do_nothing_in_a_terminal(hostile: Document) -> None:
    """Names that look like markup of the terminal's library are shown as they are."""
    made = build_document(made_audit(["[red]a[/red]", "[link=x]b"]))
    text = printed(made, 120)
    assert "[red]a[/red]" in text
    assert "[link=x]b" in text
    assert printed(hostile, 100)


@given(st.text(alphabet=st.characters(), max_size=30), st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_out_of_a_page_as_it_went_in(one: str, other: str) -> None:
    """Whatever a text holds, the page is well formed and says it, but for what cannot be shown."""
    made = Document(one, other, (one,), (other,), (Section(one, one, (other, one), (Missing(one), Text(other))),), {})
    page = render_html(attrs.evolve(made, provenance={one: other}))
    page.encode()
    reader = Reader(page)
    assert not reader.tags["script"]
    seen = "".join(each if each in "\n\t" or unicodedata.category(each) not in HIDDEN else "\ufffd" for each in one)
    assert " ".join(seen.split()) in reader.text


PARTS = ("utilities", "cosines", "disagreement", "alignment", "sensitivity", "recovery", "frontier", "regret")


@pytest.mark.parametrize("part", [part for part in PARTS if part != "cosines"])
def test_a_missing_part_says_why(audit: Audit, part: str) -> None:
    """A part that could not be made is named with its reason, and the rest of the report stands."""
    without: dict[str, Any] = {part: None}
    made = build_document(attrs.evolve(audit, **without, reasons={part: f"no {part} & <why>"}))
    section = next(each for each in made.sections if each.key == part)
    page = render_html(attrs.evolve(made, sections=(section,)))
    assert f"no {part} &amp; &lt;why&gt;" in page
    assert f"no {part} & <why>" in printed(made, 100)
    assert 3 <= len(made.findings) <= 5


def test_an_audit_of_nothing_is_a_report(audit: Audit) -> None:
    """An audit that was stopped at once still gives a page that says so for every part."""
    nothing: dict[str, Any] = dict.fromkeys(PARTS)
    made = build_document(attrs.evolve(audit, **nothing, reasons={}))
    assert made.findings == ()
    assert render_html(made).count("Not done.") == len(made.sections) == 7
    assert printed(made, 80).count("not done:") == 7


def without_figures(value: Any) -> Any:
    """The same record with no estimate known."""
    if isinstance(value, Estimate):
        return Estimate(None)
    if attrs.has(type(value)):
        return attrs.evolve(
            value, **{field.name: without_figures(getattr(value, field.name)) for field in attrs.fields(type(value))}
        )
    if isinstance(value, tuple):
        return tuple(without_figures(each) for each in value)
    if isinstance(value, dict):
        return {key: without_figures(each) for key, each in value.items()}
    return value


def test_figures_that_are_not_known_are_dashes(audit: Audit) -> None:
    """Where nothing varies, no figure is defined: the report shows dashes and draws empty plots."""
    made = build_document(without_figures(audit))
    page = render_html(made)
    assert page
    assert not re.search(r"\bnan\b", page.lower())
    assert "–" in page
    assert "nan" not in printed(made, 100).lower()


@pytest.mark.parametrize("count", [1, 12])
def test_any_number_of_stakeholders_is_drawn(count: int) -> None:
    """One stakeholder or many: every part is there, and the page stays well formed."""
    made = build_document(made_audit([f"stakeholder_{at}" for at in range(count)], ["a", "b"]))
    reader = Reader(render_html(made))
    assert reader.tags["figure"] >= (6 if count == 1 else 10)
    assert "stakeholder_0" in reader.text
    if count > 10:
        assert "more stakeholders are in the" in reader.text


@pytest.mark.parametrize("width", [80, 100, 132, 200])
@pytest.mark.parametrize("color", [False, True])
def test_the_terminal_is_wide_enough(document: Document, width: int, color: bool) -> None:
    """No line is wider than the terminal, no number is cut, and what does not fit is named."""
    text = printed(document, width, color)
    plain = re.sub(r"\x1b\[[\d;]*m|\x1b\]8;.*?\x1b\\", "", text)
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= width
    assert (text != plain) == color
    for part in ("user", "platform", "society", "harms", "control", "Pairs needed", "σ"):
        assert part in plain
    assert ("too narrow for" in plain) == (width == 80)


def test_many_long_names_fit_a_narrow_terminal() -> None:
    """With names of 100 characters, a terminal of 80 columns shows every row."""
    names = [f"{'a_very_long_name_' * 5}{at}" for at in range(3)]
    text = printed(build_document(made_audit(names)), 80)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_tables_give_up_intervals_first() -> None:
    """A table that is too wide loses its intervals, then its last columns."""
    made = table("t", {"name": "l", "one [95%]": "r", "two [95%]": "r"}, [("a", ".50 [.40, .60]", Cell("1 [0, 2]"))])
    assert fit_table(made, 60) == (made, "")
    fitted, said = fit_table(made, 16)
    assert [cell.text for cell in fitted.rows[0]] == ["a", ".50", "1"]
    assert fitted.columns == ("name", "one", "two")
    assert said == "intervals"
    fitted, said = fit_table(made, 10)
    assert fitted.columns == ("name", "one")
    assert said == "intervals and two"


def test_a_table_must_be_square() -> None:
    """A row with too few cells is a mistake of the caller."""
    with pytest.raises(ValueError, match="wanted 2 letters and cells"):
        table("t", {"a": "l", "b": "r"}, [("only one",)])


def test_two_columns_may_have_one_heading() -> None:
    """A stakeholder may be called like a column of ours."""
    text = printed(build_document(made_audit(["groups", "mix", "feature"])), 132)
    assert "groups" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.834, ".83"),
        (-0.834, "−.83"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.004, ".004"),
        (0.00001, "<.001"),
        (-0.00001, ">−.001"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    """A number has as many digits as a reader needs; small is not nothing."""
    assert number(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_has_its_sign(value: float) -> None:
    """Every number that is not 0 shows its sign when asked."""
    shown = number(value, sign=True)
    assert shown[0] in ("0" if value == 0 else "−>" if value < 0 else "+")


def test_shares_and_words() -> None:
    """Shares, intervals, lists and counts are written one way."""
    assert [share(each) for each in (0.0, 0.041, 0.234, 0.996, 1.0, -0.5, float("nan"))] == [
        "0%",
        "4.1%",
        "23%",
        "99.6%",
        "100%",
        "−50%",
        "–",
    ]
    assert percent(Estimate(0.43, 0.35, 0.51)) == "43% [35, 51]"
    assert percent(Estimate(0.995, 0.99, 1.0)) == "99.5% [99.0, 100.0]"
    assert interval(Estimate(-0.31, -0.4, -0.22)) == "−.31 [−.40, −.22]"
    assert interval(Estimate(0.5)) == ".50"
    assert interval(Estimate(None)) == "–"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert plural(1, "pair") == "1 pair"
    assert plural(3000, "pair") == "3,000 pairs"
    assert mix_text({"a": 0.25, "b": 0.75, "c": 0.0, "d": 1e-5}) == "b .75, a .25, d <.01"
    assert mix_text({f"s{at}": 0.1 + at % 2 for at in range(9)}) == "s1 1.10, s3 1.10, s5 1.10, 6 more"
    assert mix_text({"a": 1 / 3, "b": 1 / 3}) == "equal parts"
    assert tidy(["25 % of it, -0.5; x-1"]) == ("25% of it, −0.5; x-1",)


def test_names_are_cut_in_the_middle() -> None:
    """Two long names that differ at their ends stay different."""
    one, other = f"{'x' * 50}_one", f"{'x' * 50}_two"
    assert short(one, 20) != short(other, 20)
    assert len(short(one, 20)) <= 20
    assert label("_hidden") == "\u200b_hidden"
    assert label("a\nb\x00c") == "a b c"
    assert labels(["x" * 60 + "y" * 60, "x" * 60 + "z" + "y" * 60], 10) == ["xxxxx…yyyy (1)", "xxxxx…yyyy (2)"]
    assert labels(["same", "same"]) == ["same", "same"]


def test_findings_tell_what_the_controls_say(audit: Audit) -> None:
    """The finding on regret compares with the controls, and says when pairs are no better."""
    assert audit.regret is not None
    one = audit.regret.stakeholders[0]
    points = {
        "true utility": 0.1,
        "pairs": 0.3,
        "zero pairs": 0.6,
        "wrong pairs": 0.5,
        "no model": 0.9,
        "untrained signed start": 0.2,
    }

    def regret(**changed: float) -> Audit:
        values = {**points, **{name.replace("_", " "): figure for name, figure in changed.items()}}
        made = tuple(
            attrs.evolve(
                point, regret=Estimate(values[point.condition], *np.add(values[point.condition], (-0.05, 0.05)))
            )
            for point in one.points
            if point.condition in values
        )
        part = attrs.evolve(audit.regret, stakeholders=(attrs.evolve(one, points=made),)) if audit.regret else None
        return attrs.evolve(audit, regret=part)

    def told(made: Audit) -> str:
        return next(finding for finding in findings(made) if "out costs it most" in finding)

    assert "a regret of 60% of its range (with its own utility 10% and with no model at all 90%)" in told(regret())
    assert "no better than with an untrained vector of signs: with 25 pairs of others 50%, with none 60%" in told(
        regret()
    )
    assert "better than every control" in told(regret(untrained_signed_start=0.7))
    assert "not clearly better than the controls" in told(regret(untrained_signed_start=0.35))
    assert "no better than with no model at all: " in told(regret(untrained_signed_start=0.7, no_model=0.25))
    nobody = regret(zero_pairs=0.1)
    assert "Leaving a stakeholder out of the mix costs none of them anything on these points." in findings(nobody)


def test_who_pays_most_is_by_what_being_left_out_changes(audit: Audit) -> None:
    """A stakeholder whose regret is high even with its own utility is not the one that leaving out costs most."""
    assert audit.regret is not None
    figures = {"user": (0.7, 0.75), "society": (0.1, 0.5)}
    made = []
    for name, (own, out) in figures.items():
        values = {"true utility": Estimate(own), "zero pairs": Estimate(out)}
        points = [
            attrs.evolve(point, regret=values[point.condition])
            for point in audit.regret.stakeholders[0].points
            if point.condition in values
        ]
        made.append(attrs.evolve(audit.regret.stakeholders[0], name=name, points=tuple(points), closed={}))
    changed = attrs.evolve(audit, regret=attrs.evolve(audit.regret, stakeholders=tuple(made)))
    told = next(finding for finding in findings(changed) if "out costs it most" in finding)
    assert told.startswith("Leaving society out costs it most: a regret of 50% of its range (with its own utility 10%)")


def test_words_on_the_knob_keep_groups_and_stakeholders_apart(audit: Audit) -> None:
    """A knob that is better for every stakeholder and shows fewer groups is told as that, and never hidden."""
    assert audit.frontier is not None
    part = audit.frontier

    def told(*points: tuple[float, float, float]) -> str:
        """Of points (share of everybody, groups, chosen)."""
        made = [
            attrs.evolve(
                part.chosen,
                delta=at / 10,
                share=tuple(Estimate(share) for _ in part.names),
                groups=Estimate(groups),
                chosen=bool(chosen),
            )
            for at, (share, groups, chosen) in enumerate(points)
        ]
        chosen = next(point for point in made if point.chosen)
        changed = attrs.evolve(part, delta_points=tuple(made), chosen=chosen)
        return " ".join(findings(attrs.evolve(audit, frontier=changed)))

    assert "The diversity knob at 0 would give every stakeholder as much" in told((0.9, 2, 0), (0.8, 3, 1), (0.5, 4, 0))
    assert "with fewer groups in a slate (2" in told((0.9, 2, 0), (0.8, 3, 1), (0.5, 4, 0))
    assert "with as many groups, and better for one" in told((0.9, 3, 0), (0.8, 3, 1), (0.5, 4, 0))
    assert "shows more groups than the one in use and costs nobody anything" in told((0.8, 3, 1), (0.8, 4, 0))
    assert "No other diversity knob is better for all stakeholders" in told((0.9, 2, 1), (0.8, 3, 0), (0.5, 4, 0))


def test_findings_name_whom_data_harms(audit: Audit) -> None:
    """The finding on alignment names the pair, and says when plain cosines would have hidden it."""
    assert audit.alignment is not None
    told = next(finding for finding in findings(audit) if "More data for" in finding)
    worst = min(audit.alignment.pairs, key=lambda each: each.cosine.value or 0.0)
    assert worst.target in told
    assert worst.other in told
    hidden = tuple(attrs.evolve(each, weight_cosine=0.4) for each in audit.alignment.pairs)
    made = attrs.evolve(audit, alignment=attrs.evolve(audit.alignment, pairs=hidden))
    assert "though the cosine of their weights alone is +.40" in " ".join(findings(made))
    helped = tuple(
        attrs.evolve(each, verdict="helps", cosine=Estimate(0.5, 0.4, 0.6)) for each in audit.alignment.pairs
    )
    made = attrs.evolve(audit, alignment=attrs.evolve(audit.alignment, pairs=helped))
    assert (
        "Selecting harder for one stakeholder at first helps every other: the lowest cosine through the pool is .50"
        in " ".join(findings(made))
    )


NAMED: dict[str, Any] = {"key": "k", "title": "T & t", "description": "D < d"}


def test_a_far_control_does_not_squeeze_the_others() -> None:
    """A control that is far from everything else is written at the edge."""
    rows = [Bar("a", 0.2, 0.1, 0.3), Bar("b", 0.3, 0.2, 0.4, control=True), Bar("c", 9.0, 8.0, 10.0, control=True)]
    svg = bars(rows, unit="u", clip=True, **NAMED)
    assert "9.00 →" in svg
    assert '<desc id="k-desc">D &lt; d</desc>' in svg
    assert "9.00 →" not in bars(rows, unit="u", **NAMED)


def test_plots_take_gaps_and_edges() -> None:
    """Values that are not known leave gaps, and the smallest inputs draw."""
    nan = np.array([np.nan, 0.5])
    names = ["a", "b"]
    drawn = [
        bars([Bar("a", float("nan")), Bar("b", 0.1)], unit="u", **NAMED),
        curves([Line("a", np.array([1.0, 2.0]), nan, nan, nan)], x="x", y="y", log=True, ticks=[1, 2], **NAMED),
        heat_maps(names, [("m", np.full((2, 2), np.nan)), ("n", np.eye(2))], **NAMED),
        scatter(nan, nan, nan, names=("p", "c"), texts=["t", ""], x="x", y="y", band=0.2, **NAMED),
        plane([Cloud("c", np.array([[0.1, 0.2]]), np.array([True]))], x="x", y="y", chosen=(0.1, 0.2), **NAMED),
    ]
    for svg in drawn:
        Reader(svg)
        assert "nan" not in svg


def test_what_was_served_alike_is_said_once(audit: Audit) -> None:
    """Where all got the same of what they could have, the finding has one figure, not a range from it to itself."""
    part = audit.utilities
    assert part is not None
    alike = tuple(attrs.evolve(each, served=Estimate(0.97 + 0.001 * at)) for at, each in enumerate(part.stakeholders))
    told = findings(attrs.evolve(audit, utilities=attrs.evolve(part, stakeholders=alike)))[0]
    assert told.endswith(" What was served gave 97% to each.")


def test_disagreement_against_the_cosine_is_explained() -> None:
    """A pair that is mostly ordered differently although its cosine is positive is told, and no other is."""
    near, none = Estimate(0.3, 0.2, 0.4), Estimate(None)
    pairs = [
        DisagreeingPair("a", "b", Estimate(0.65, 0.6, 0.7), 0.0, 0.33, none, None),
        DisagreeingPair("a", "c", Estimate(0.55, 0.45, 0.65), 0.0, 0.33, none, None),
        DisagreeingPair("b", "c", near, 0.0, 0.7, none, None),
        DisagreeingPair("c", "d", near, 0.0, 0.2, none, None),
    ]
    _, first, second = disagreement_words(pairs, ())
    assert "a and b order 65 % of the pairs differently, though" in first
    assert "they agree on items that are far apart" in first
    assert "b and c order only 30 % of the pairs differently, though" in second
    assert "they disagree on items that are far apart" in second


@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-5, 5), st.text("abcdefgh", min_size=1, max_size=30)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=15, deadline=None)
def test_names_of_points_stay_within_the_axes(points: list[tuple[float, float, float, str]]) -> None:
    """Whatever the points and their names, no name begins or ends outside the axes."""
    places = np.array([point[:3] for point in points])
    figure = Figure(figsize=(5.8, 3.9))
    axes = figure.subplots()
    axes.set(xlim=(-1.3, 1.3), ylim=(-6, 6))
    _name_points(axes, [point[3] for point in points], places, (-1.3, 1.3, -6.0, 6.0))
    for text in (each for each in axes.texts if isinstance(each, Annotation)):
        along, up = text.xyann
        assert -1.3 < along < 1.3
        assert -6 < up < 6
