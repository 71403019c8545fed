"""Graphs of pipelines: every component once, arrows that are true, and drawings that survive any name."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from dot_reader import label_lines, read_dot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline_scripts import Script, scripts
from rich.console import Console
from toys import GUEST, LEVEL, PRICE, STOCK, TITLE, seconds

from candidate_pipeline import (
    ITEM_ID,
    SCORE,
    BreakerPolicy,
    CachePolicy,
    NestedPipeline,
    RunPolicy,
    StageOptions,
    load_document,
)
from candidate_pipeline.composition import compose
from candidate_pipeline.drawing.labels import children, shortened
from candidate_pipeline.drawing.words import MARKS
from candidate_pipeline.engine.plan import Node as Member
from candidate_pipeline.engine.plan import Plan
from candidate_pipeline.graph import Graph, graph
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.model import STAGES
from candidate_pipeline.testing.scripted import NAME, scripted_app

SCRIPTS = st.sampled_from(["strict", "upstream"]).flatmap(scripts)
PLENTY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MARKUP = ["[red]x[/red]", "</div>", "%%{init}%%", "`x`", "#35;", "&amp;", "1. x", "$$x$$", "fa:fa-ban", "*b*"]
SIGNS = ['"', "\\", '\\"', "\\n", "a\nb", "a -> b", "end", "{}[]()|;"]
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from([*MARKUP, *SIGNS])


def members_of(plan: Plan) -> Iterator[Member]:
    """Every component of a plan and of those inside it."""
    for node in plan.nodes:
        yield node
        if node.inner is not None:
            yield from members_of(node.inner)


def plan_of(script: Script) -> Plan:
    """A script's plan."""
    return scripted_app(script)[NAME].plan


@pytest.fixture(scope="module")
def plan(make: Any) -> Plan:
    """A pipeline with everything that a graph marks."""

    def work(*_: Any) -> Any:
        return None

    async def wait(*_: Any) -> Any:
        return None

    inner = compose(
        "inner",
        inputs={"level": LEVEL},
        sources=[make("source", wait, "stall", reads=[LEVEL], writes=[PRICE]), make("source", wait, "booth")],
        filters=[make("filter", work, "fresh", reads=[PRICE])],
        selector=make("selector", work, "all"),
    )
    backup = compose(
        "backup",
        sources=[make("source", wait, "popular", writes=[PRICE])],
        filters=[make("filter", work, "safe", reads=[PRICE], safety=True)],
        selector=make("selector", work, "any"),
    )
    app = compose(
        "outer",
        inputs={"guest": GUEST, "level": LEVEL},
        sources=[("market", NestedPipeline(inner["inner"].plan)), make("source", wait, "members", writes=[PRICE])],
        hydrators=[
            make("hydrator", work, "stock", reads=[ITEM_ID], writes=[STOCK], blocking=True),
            make("hydrator", work, "score", reads=[STOCK], writes=[SCORE, TITLE]),
        ],
        filters=[
            make("filter", work, "first", reads=[STOCK], listwise=True),
            make("filter", work, "safe", reads=[PRICE], safety=True),
        ],
        scorers=[make("scorer", wait, "model", reads=[PRICE], writes=[SCORE], prepare=wait)],
        fallbacks=[
            make("filter", work, "second", reads=[PRICE]),
            make("source", wait, "old", writes=[PRICE]),
            make("scorer", work, "last", writes=[SCORE]),
        ],
        selector=make("selector", work, "top", reads=[SCORE]),
        post_selection_filters=[make("filter", work, "late")],
        side_effects=[make("side_effect", wait, "log", reads=[PRICE])],
        run={
            "members": RunPolicy(when={"toy.guest": False}, on_error="fallback:old", timeout=seconds(0.04)),
            "stock": RunPolicy(cache=CachePolicy(ttl=seconds(9)), breaker=BreakerPolicy()),
            "first": RunPolicy(on_error="fallback:second"),
            "model": RunPolicy(on_error="skip", on_timeout="fallback:last"),
            "log": RunPolicy(sync=True),
        },
        result_size=9,
        min_results=5,
        top_up=backup["backup"],
        deadline=seconds(0.3),
        stages={"sources": StageOptions(timeout=seconds(0.09), reserve=seconds(0.1))},
        show=[STOCK],
    )
    return app["outer"].plan


def node_of(found: Graph, wanted: str) -> Any:
    """The node with an id."""
    return next(node for node in found.nodes if node.id == wanted)


# What is in a graph


@PLENTY
@given(script=SCRIPTS)
def test_every_component_stands_once_in_its_stage(script: Script) -> None:
    """A graph has each of a plan's components once, fallbacks included, in the box of its stage."""
    plan, found = plan_of(script), graph(plan_of(script))
    components = [(node.name, node.stage) for node in found.nodes if node.kind not in {"request", "response"}]
    assert sorted(components) == sorted((node.name, node.stage) for node in plan.nodes)
    boxes = {box.id: box for box in found.boxes}
    assert len(boxes) == len(found.boxes)
    assert len({node.id for node in found.nodes} | boxes.keys()) == len(found.nodes) + len(found.boxes)
    for node in found.nodes:
        box = boxes[node.box]
        while node.stage and box.kind == "phase":
            box = boxes[str(box.parent)]
        assert box.name == (node.stage or NAME)


@PLENTY
@given(script=SCRIPTS)
def test_arrows_lead_from_the_last_writer_to_a_later_reader(script: Script) -> None:
    """An arrow's keys are written where it starts and read where it ends, and nobody wrote them again in between."""
    plan = plan_of(script)
    found = graph(plan)
    steps = steps_of(plan)
    nodes = {node.id: node for node in found.nodes}
    for arrow in found.arrows:
        if arrow.kind != "data":
            continue
        writer, reader = nodes[arrow.start], nodes[arrow.end]
        for key in arrow.keys:
            written = [*writer.writes, *(["core.item_id"] if writer.kind == "source" else [])]
            assert key in written
            assert key in reader.reads
            assert steps[writer.name, writer.stage] < steps[reader.name, reader.stage]
            between = range(steps[writer.name, writer.stage] + 1, steps[reader.name, reader.stage])
            assert not [node for node in found.nodes if key in node.writes and steps[node.name, node.stage] in between]


@PLENTY
@given(script=SCRIPTS)
def test_whatever_is_read_has_an_arrow(script: Script) -> None:
    """Every key that a component reads and somebody wrote before it comes with an arrow; so none is missing."""
    plan = plan_of(script)
    found, steps = graph(plan), steps_of(plan)
    given_keys: dict[str, set[str]] = {}
    for arrow in found.arrows:
        given_keys.setdefault(arrow.end, set()).update(arrow.keys)
    for node in found.nodes:
        for key in node.reads:
            before = [
                other
                for other in found.nodes
                if (key in other.writes or (key == "core.item_id" and other.kind == "source"))
                and steps[other.name, other.stage] < steps[node.name, node.stage]
            ]
            assert (key in given_keys.get(node.id, ())) == bool(before)


@PLENTY
@given(script=SCRIPTS)
def test_unread_means_that_nobody_reads_it_later(script: Script) -> None:
    """A key is marked as unread exactly if no component after its writer, and not the response, reads it."""
    plan = plan_of(script)
    found, steps = graph(plan), steps_of(plan)
    for node in found.nodes:
        for key in node.writes if node.kind != "request" else ():
            readers = [other for other in found.nodes if key in other.reads]
            later = [other for other in readers if steps[other.name, other.stage] > steps[node.name, node.stage]]
            assert (key in node.unread) == (not later and key != "core.item_id")


def steps_of(plan: Plan) -> dict[tuple[str, str], int]:
    """When each component runs, counted over stages and phases; fallbacks run when those they stand in for do."""
    found, step = {("request", ""): 0}, 0
    for stage in STAGES:
        if stage == "side_effects":
            step += 1
            found["response", ""] = step
        phases = plan.phases.get(stage, ())
        if stage == "sources":  # asked all at once
            phases = (tuple(node for phase in phases for node in phase),)
        for phase in phases:
            step += 1
            waiting = list(phase)
            for node in waiting:
                found[node.name, node.stage] = step
                waiting += node.fallbacks
    return found


def test_inner_pipelines_are_connected(plan: Plan) -> None:
    """What an inner pipeline is given comes from outside, what it passes on goes out, and each component is there."""
    found = graph(plan)
    components = [node.name for node in found.nodes if node.kind not in {"request", "response"}]
    assert sorted(components) == sorted(node.name for node in members_of(plan))
    flows = {(arrow.start, arrow.end): arrow.keys for arrow in found.arrows if arrow.kind == "data"}
    assert flows["request", "sources_market_request"] == ("toy.level",)
    assert flows["sources_market_request", "sources_market_sources_stall"] == ("toy.level",)
    assert flows["sources_market_sources_stall", "sources_market"] == ("toy.price",)
    assert flows["sources_market", "filters_safe"] == ("toy.price",)
    assert flows["sources_members", "filters_safe"] == flows["sources_old", "filters_safe"] == ("toy.price",)
    assert flows["top_up_backup", "side_effects_log"] == ("toy.price",)
    kinds = {box.id: box.kind for box in found.boxes}
    assert kinds["sources_market_pipeline"] == "nested"
    assert kinds["top_up_backup_pipeline"] == "top_up"
    (short,) = [arrow for arrow in found.arrows if arrow.kind == "top_up"]
    assert (short.start, short.end) == ("post_selection_filters_late", "top_up_backup_pipeline")
    assert short.note == "fewer than 5 rows"


def test_marks_and_notes_say_how_components_run(plan: Plan) -> None:
    """Modes, caches, breakers, gates, safety, listwise and synchronous components, fallbacks and times are marked."""
    found = graph(plan)
    marks = {node.id: set(node.marks) for node in found.nodes}
    assert marks["hydrators_stock"] == {"blocking", "cached", "breaker"}
    assert marks["sources_members"] == {"async", "gated"}
    assert marks["filters_first"] == {"listwise"}
    assert marks["filters_safe"] == {"safety"}
    assert marks["scorers_model"] == {"async", "prepares"}
    assert marks["side_effects_log"] == {"async", "sync"}
    assert marks["filters_second"] == {"fallback"}
    assert set.union(*marks.values()) == MARKS.keys()
    assert node_of(found, "sources_members").notes == ("timeout 40ms", "depends on toy.guest")
    assert node_of(found, "hydrators_stock").notes == ("kept for 9s",)
    assert node_of(found, "response").notes == ("at most 9 rows",)
    assert next(box.notes for box in found.boxes if box.id == "sources") == (
        "timeout 90ms",
        "ends 100ms before the deadline",
    )
    stands_in = {(arrow.start, arrow.end): arrow.note for arrow in found.arrows if arrow.kind == "fallback"}
    assert stands_in == {
        ("sources_members", "sources_old"): "on error or timeout",
        ("filters_first", "filters_second"): "on error",
        ("scorers_model", "scorers_last"): "on timeout",
    }
    assert node_of(found, "scorers_model").on_timeout == "fallback:last"
    assert node_of(found, "scorers_model").on_error == "skip"


@PLENTY
@given(script=SCRIPTS)
def test_no_arrow_leads_back(script: Script) -> None:
    """Arrows lead forward in the order of the nodes, so a graph has no circle."""
    assert_forward(graph(plan_of(script)))


def test_no_arrow_leads_back_inside_and_out(plan: Plan) -> None:
    """This holds with inner pipelines, fallbacks and side effects too."""
    assert_forward(graph(plan))


def assert_forward(found: Graph) -> None:
    """Whatever an arrow starts from, or is inside of it, stands before what it leads to."""
    places = {node.id: at for at, node in enumerate(found.nodes)}
    inside: dict[str, list[int]] = {node.id: [places[node.id]] for node in found.nodes}
    parents = {box.id: box.parent for box in found.boxes}
    for node in found.nodes:
        box: str | None = node.box
        while box is not None:
            inside.setdefault(box, []).append(places[node.id])
            box = parents[box]
    for arrow in found.arrows:
        assert max(inside[arrow.start]) < min(inside[arrow.end]), arrow


def test_resources_are_found_in_the_fields_of_components(shop: Any) -> None:
    """Resources stand before what uses them, under the names given or else their classes'."""
    app = load_document(Document(shop.spec), registry=shop.registry)
    found = graph(app["shop"].plan)
    used = [(arrow.start, arrow.end) for arrow in found.arrows if arrow.kind == "resource"]
    assert ("resource_store", "sources_shelf") in used
    assert "resource_store" not in [node.id for node in found.shown(columns=True, resources=False).nodes]
    store = app.resource("store")
    assert graph(app["shop"].plan, {"pantry": store}).nodes[0].name == "pantry"


# Drawings


@attrs.define
class Renamed:
    """A graph with hostile names, and its names."""

    graph: Graph
    names: dict[str, str]


def renamed(found: Graph, names: list[str]) -> Renamed:
    """A graph whose components are called otherwise."""
    nodes = [attrs.evolve(node, name=names[at % len(names)]) for at, node in enumerate(found.nodes)]
    boxes = [
        attrs.evolve(box, name=box.name.replace("_", " ") if box.kind == "stage" else names[at % len(names)])
        for at, box in enumerate(found.boxes)
    ]
    changed = attrs.evolve(found, nodes=tuple(nodes), boxes=tuple(boxes), name=names[0])
    return Renamed(changed, {node.id: node.name for node in nodes} | {box.id: box.name for box in boxes})


def shown(name: str) -> str:
    """A name as drawings show it: on one line."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in name)


@PLENTY
@given(names=st.lists(NAMES, min_size=1, max_size=5), columns=st.booleans())
def test_dot_keeps_every_name(plan: Plan, names: list[str], columns: bool) -> None:
    """Whatever components are called, a reader of DOT finds every node, box and arrow, and each name as it was."""
    hostile = renamed(graph(plan), names)
    found = read_dot(hostile.graph.dot(columns=columns))
    kept = hostile.graph.shown(columns=columns, resources=False)
    assert found.nodes.keys() == {node.id for node in kept.nodes}
    for node, attributes in found.nodes.items():
        assert label_lines(attributes["label"])[0] == shown(hostile.names[node])
    for cluster, label in found.clusters.items():
        assert shown(hostile.names[cluster.removeprefix("cluster_")]) in label_lines(label)[0]
    drawn = [arrow for arrow in found.arrows if arrow[2].get("style") != "invis"]
    assert len(drawn) == len([arrow for arrow in kept.arrows if not (columns and arrow.kind == "order")])
    for box in kept.boxes:
        members = [part.id for part in children(kept)[box.id] if part.id in found.nodes]
        assert found.members[f"cluster_{box.id}"] == members


@PLENTY
@given(names=st.lists(NAMES, min_size=1, max_size=5), columns=st.booleans())
def test_mermaid_keeps_every_name(plan: Plan, names: list[str], columns: bool) -> None:
    """Between quotation marks stand only letters, digits, harmless signs, entities and line breaks; names survive."""
    hostile = renamed(graph(plan), names)
    lines = hostile.graph.mermaid(columns=columns).splitlines()
    assert lines[0] == "flowchart TB"
    labels: dict[str, str] = {}
    for line in lines:
        for label in re.findall(r'"([^"]*)"', line):
            rest = re.sub(r"#\d+;|<br>", "", label)
            assert all(letter.isalnum() or letter in " _.,/()+=·" for letter in rest), line
        found = re.match(r'\s*(?:subgraph )?(\w+)[\[(]+"(.*)"[\])]+$', line)
        if found:
            labels[found[1]] = re.sub(r"#(\d+);", lambda code: chr(int(code[1])), found[2].partition("<br>")[0])
    for part, name in hostile.names.items():
        assert shown(name) in labels[part].replace("\u200b", "")
    assert sum(line.strip() == "end" for line in lines) == sum("subgraph" in line for line in lines)


@PLENTY
@given(names=st.lists(NAMES, min_size=1, max_size=5), width=st.integers(20, 120), ascii_only=st.booleans())
def test_a_tree_shows_names_as_they_are(plan: Plan, names: list[str], width: int, ascii_only: bool) -> None:
    """No name is taken for markup, and no width too narrow."""
    hostile = renamed(graph(plan), ["[red]x[/red]", *names])
    file = io.StringIO()
    tree = hostile.graph.tree(columns=True, resources=True, ascii_only=ascii_only)
    Console(file=file, width=width).print(tree)
    if width > 60:
        assert "[red]x[/red]" in file.getvalue()


def test_drawings_are_always_the_same(plan: Plan) -> None:
    """Two graphs of one plan are equal, and so are their drawings."""
    one, other = graph(plan), graph(plan)
    assert one == other
    assert one.dot(columns=True) == other.dot(columns=True)
    assert one.mermaid(columns=True) == other.mermaid(columns=True)


def test_long_lists_of_keys_are_shortened() -> None:
    """Up to four keys are named, of more the first three and how many follow; the plain data has all of them."""
    assert shortened(["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    assert shortened(["a", "b", "c", "d", "e"]) == ["a", "b", "c", "+2 more"]


def test_the_tree_says_what_flows(plan: Plan) -> None:
    """With columns, the tree names for each component what it reads of whom, what it writes, and what nobody reads."""
    file = io.StringIO()
    Console(file=file, width=120).print(graph(plan).tree(columns=True))
    text = file.getvalue()
    assert "← toy.price  from market, members, old" in text
    assert "→ unread toy.title" in text
    assert "fallback · on error or timeout of members" in text
    assert "uses" not in text


def test_operands_of_gates_are_not_drawn(plan: Plan) -> None:
    """A drawing names the features of a condition, not what they are compared with, which may be secret."""
    text = graph(plan).dot(columns=True)
    assert "depends on toy.guest" in text
    assert "False" not in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("columns", [False, True])
def test_graphviz_draws_it(plan: Plan, columns: bool) -> None:
    """Graphviz itself reads the drawing without a warning and shows every name, however hostile."""
    names = ['a "quoted" \\ name', "</TABLE> & <b>", "line\nbreak", "\\N \\G", "é 漢字 🎈"]
    hostile = renamed(graph(plan), names)
    text = hostile.graph.dot(columns=columns)
    done = subprocess.run(["dot", "-Tjson"], input=text, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    objects = {part["name"]: part for part in json.loads(done.stdout)["objects"]}
    for node in graph(plan).nodes:
        words = "".join(op["text"] for op in objects[node.id]["_ldraw_"] if op["op"] == "T")
        assert shown(hostile.names[node.id]) in words


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_is_documented(mark: str) -> None:
    """`docs/insight.md` says what each mark means."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "insight.md").read_text(encoding="utf-8")
    assert f"| `{mark}` |" in text.partition("## Graphs")[2]
