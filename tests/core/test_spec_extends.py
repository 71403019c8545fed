"""`extends`: files and pipelines as bases, the merge rule, and where inherited values were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candidate_pipeline import SpecError, load
from candidate_pipeline.spec.document import Document
from candidate_pipeline.spec.extends import MAX_CHAIN, extended
from candidate_pipeline.spec.merging import MAX_INHERITED


def write(folder: Path, **texts: str) -> Path:
    """Files called after the names; the path of `main.toml`."""
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / "main.toml"


def merged(folder: Path, **texts: str) -> Document:
    """The document of `main.toml` with every base merged."""
    problems: list[Any] = []
    document = extended(Document.read(write(folder, **texts)), problems)
    assert problems == []
    return document


def faults(folder: Path, **texts: str) -> list[str]:
    """The first lines of the mistakes, without the folder."""
    problems: list[Any] = []
    extended(Document.read(write(folder, **texts)), problems)
    return [problem.render().splitlines()[0].replace(f"{folder}/", "") for problem in problems]


def plans(shop: Any, path: Path, **given: Any) -> dict[str, list[str]]:
    """The components of each pipeline of a file, in order."""
    app = load(path, registry=shop.registry, **given)
    return {name: [node.name for node in app[name].plan.nodes] for name in app}


def mistakes(shop: Any, path: Path, **given: Any) -> str:
    """What a person reads, with bare file names."""
    with pytest.raises(SpecError) as caught:
        load(path, registry=shop.registry, **given)
    return str(caught.value).replace(f"{path.parent}/", "")


# Files


def test_the_nearer_file_wins_key_by_key(tmp_path: Path) -> None:
    """Tables merge at every depth; a scalar, a list and a value of another kind replace what the base says."""
    document = merged(
        tmp_path,
        base="a = 1\nlist = [1, 2]\nt = { x = 1, deep = { y = 1, z = 2 } }\nkind = { b = 1 }\n",
        main='extends = "base.toml"\nlist = [3]\nnew = 5\nkind = 4\n[t]\ndeep.y = 7\ndeep.w = 9\n',
    )
    assert document.data == {
        "a": 1,
        "list": [3],
        "t": {"x": 1, "deep": {"y": 7, "z": 2, "w": 9}},
        "kind": 4,
        "new": 5,
    }


def test_another_use_replaces_the_whole_table(tmp_path: Path) -> None:
    """The options of a component belong to what it uses: with another `use` none of the base's are kept."""
    document = merged(
        tmp_path,
        base='[components.a]\nuse = "x.one"\nsize = 3\nrun.timeout = "1s"\n[components.b]\nuse = "x.one"\nsize = 3\n'
        '[resources.r]\nuse = "x.r"\npath = "p"\n',
        main='extends = "base.toml"\n[components.a]\nuse = "x.two"\nkeep = true\n[components.b]\nuse = "x.one"\nk = 4\n'
        '[resources.r]\nuse = "x.s"\n',
    )
    assert document.data["components"] == {
        "a": {"use": "x.two", "keep": True},
        "b": {"use": "x.one", "size": 3, "k": 4},
    }
    assert document.data["resources"] == {"r": {"use": "x.s"}}


def test_an_env_table_is_one_value(tmp_path: Path) -> None:
    """`{ env = ... }` replaces, and is replaced, whole: the base's default does not stay behind."""
    document = merged(
        tmp_path,
        base='[components.a]\nx = { env = "A", default = 1 }\ny = { env = "B" }\nz = { k = 1 }\n',
        main='extends = "base.toml"\n[components.a]\nx = { env = "C" }\ny = { k = 2 }\nz = { env = "D" }\n',
    )
    assert document.data["components"]["a"] == {"x": {"env": "C"}, "y": {"k": 2}, "z": {"env": "D"}}


@pytest.mark.parametrize(
    ("near", "result"),
    [
        ('["x"]', ["x"]),
        ('["...", "x"]', ["a", "b", "c", "x"]),
        ('["x", "..."]', ["x", "a", "b", "c"]),
        ('["x", "...", "y"]', ["x", "a", "b", "c", "y"]),
        ('["...", "-b"]', ["a", "c"]),
        ('["-b", "...", "b"]', ["a", "c", "b"]),
        ('["-a", "-b", "-c", "..."]', []),
        ('["..."]', ["a", "b", "c"]),
        ("[]", []),
        ('["-b"]', ["-b"]),
    ],
)
@pytest.mark.parametrize("place", ["pipelines.p.filters", "components.c.names", "resources.r.deep.list"])
def test_lists_take_from_the_base(tmp_path: Path, near: str, result: list[str], place: str) -> None:
    """`"..."` stands for the base's entries and `"-name"` leaves one out; a list without `"..."` replaces."""
    table, _, key = place.rpartition(".")
    document = merged(
        tmp_path,
        base=f'[{table}]\n{key} = ["a", "b", "c"]\n',
        main=f'extends = "base.toml"\n[{table}]\n{key} = {near}\n',
    )
    assert document.get(tuple(place.split("."))) == result


def test_lists_of_anything_take_from_the_base(tmp_path: Path) -> None:
    """Numbers and tables in lists are carried over beside texts."""
    document = merged(
        tmp_path,
        base='[components.c]\nxs = [1, { a = 2 }, "...", "-q"]\n',
        main='extends = "base.toml"\n[components.c]\nxs = [0, "...", [3]]\n',
    )
    assert document.data["components"]["c"]["xs"] == [0, 1, {"a": 2}, "...", "-q", [3]]


def test_every_value_knows_its_file(tmp_path: Path) -> None:
    """Position, caret and base folder of a value are those of the file that it was written in, in lists too."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.toml").write_text(
        '[components.c]\nuse = "x.y"\nnames = ["a", "b", "c"]\npath = "data"\n[components.d]\nk = { deep = [1, 2] }\n'
    )
    document = merged(
        tmp_path,
        main='extends = "shared/base.toml"\n[components.c]\nnames = ["new", "-b", "..."]\n',
    )
    assert document.data["components"]["c"]["names"] == ["new", "a", "c"]

    def place(*path: str | int, part: str = "value") -> str:
        found = document.locate(path, part)
        text = found.text[found.column - 1 : found.column - 1 + found.length]
        return f"{Path(found.name).relative_to(tmp_path)}:{found.line}:{found.column} {text}"

    names = ("components", "c", "names")
    assert place(*names) == 'main.toml:3:9 ["new", "-b", "..."]'
    assert place(*names, 0) == 'main.toml:3:10 "new"'
    assert place(*names, 1) == 'shared/base.toml:3:10 "a"'
    assert place(*names, 2) == 'shared/base.toml:3:20 "c"'
    assert place("components", "c", part="key") == "main.toml:2:13 c"
    assert place("components", "c", "path") == 'shared/base.toml:4:8 "data"'
    assert place("components", "d", "k", "deep", 1) == "shared/base.toml:6:18 2"
    assert place("components", "d", "k", "deep", part="key") == "shared/base.toml:6:7 deep"
    assert place("components", "d", "nothing", "here") == "shared/base.toml:5:13 d"
    assert document.base_of(("components", "c", "path")) == tmp_path / "shared"
    assert document.base_of(("components", "c", "names")) == tmp_path
    assert document.files == (tmp_path / "main.toml", tmp_path / "shared" / "base.toml")


def test_chains_merge_the_farthest_first(tmp_path: Path) -> None:
    """Of three files the nearest wins, and `"..."` works through each of them."""
    document = merged(
        tmp_path,
        far="a = 1\nb = 1\nc = 1\n[components.x]\nl = ['far', 'gone']\n",
        middle="extends = 'far.toml'\nb = 2\nc = 2\n[components.x]\nl = ['...', '-gone', 'middle']\n",
        main="extends = 'middle.toml'\nc = 3\n[components.x]\nl = ['main', '...']\n",
    )
    assert document.data == {"a": 1, "b": 2, "c": 3, "components": {"x": {"l": ["main", "far", "middle"]}}}


def test_eight_bases_are_allowed_and_nine_are_not(tmp_path: Path) -> None:
    """A chain of files has an end, which is reported in the file that goes too far."""
    texts = {f"f{at}": f'extends = "f{at + 1}.toml"\nk{at} = {at}\n' for at in range(MAX_CHAIN + 1)}
    texts[f"f{MAX_CHAIN}"] = "last = 1\n"
    assert merged(tmp_path, **texts, main='extends = "f1.toml"\n').data["last"] == 1
    assert faults(tmp_path, main='extends = "f0.toml"\n') == [
        "f7.toml:1:11: E108 extends: at most 8 files may stand behind one another, found more"
    ]


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ('"bsae.toml"', "main.toml:1:11: E108 extends: no file 'bsae.toml' beside main.toml"),
        ('"base.json"', "main.toml:1:11: E108 extends: wanted a file that ends in .toml, found the string 'base.json'"),
        ('"shop"', "main.toml:1:11: E108 extends: wanted a file that ends in .toml, found the string 'shop'"),
        ('""', "main.toml:1:11: E108 extends: wanted a file that ends in .toml, found the string ''"),
        ("3", "main.toml:1:11: E102 extends: wanted a string, found the integer 3"),
        ('["base.toml"]', "main.toml:1:11: E102 extends: wanted a string, found a list of 1"),
        ('{ env = "BASE" }', "main.toml:1:11: E102 extends: wanted a string, found a table"),
        ('"folder.toml"', "main.toml:1:11: E108 extends: no file 'folder.toml' beside main.toml"),
        ('"a\\u0000.toml"', "main.toml:1:11: E108 extends: no file 'a\\x00.toml' beside main.toml"),
        (f'"{"x" * 300}.toml"', "main.toml:1:11: E108 extends: no file"),
        ('"main.toml"', "main.toml:1:11: E108 the files extend each other: main.toml -> main.toml"),
        ('"broken.toml"', "broken.toml:2:5: E100 not TOML: Invalid value"),
        ('"binary.toml"', "main.toml:1:11: E108 extends: 'binary.toml': the file is not UTF-8"),
        ('"large.toml"', "main.toml:1:11: E108 extends: 'large.toml': the file is larger than 4194304 bytes"),
    ],
)
def test_bases_that_cannot_be_used(tmp_path: Path, extends: str, message: str) -> None:
    """A base that is missing, misnamed, broken or huge is reported at `extends`, or where it is broken."""
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    (tmp_path / "large.toml").write_bytes(b"#" * (4 * 2**20 + 1))
    (found,) = faults(tmp_path, base="a = 1\n", broken="a = 1\nb = \n", main=f"extends = {extends}\n")
    assert found.startswith(message)


def test_a_circle_of_files_is_told_where_it_closes(tmp_path: Path) -> None:
    """Files that extend each other are named in order, at the `extends` that leads back."""
    assert faults(
        tmp_path,
        main="extends = 'a.toml'\n",
        a="extends = 'b.toml'\n",
        b="\nextends = 'a.toml'\n",
    ) == ["b.toml:2:11: E108 the files extend each other: a.toml -> b.toml -> a.toml"]


def test_a_missing_base_is_the_only_mistake(shop: Any, tmp_path: Path) -> None:
    """What the base may have had is not reported as missing as well; other mistakes are."""
    path = write(
        tmp_path,
        main='extends = "bas.toml"\n[pipelines.mine]\nextends = "theirs"\nfilters = ["...", "-x", "their_filter"]\n'
        'result_size = true\n[components.a]\nsize = 3\n[components.b]\nuse = "shop.shelf"\nstore = "theirs"\n'
        '[components.c]\nuse = "shop.tap"\n',
        base="",
    )
    message = mistakes(shop, path, sets=["components.theirs.x=1"])
    assert message.splitlines()[:3] == [
        "main.toml:1:11: E108 extends: no file 'bas.toml' beside main.toml",
        '     1 | extends = "bas.toml"',
        "       |           ^^^^^^^^^^ did you mean 'base.toml'?",
    ]
    assert "main.toml:5:15: E102" in message
    assert "main.toml:12:7: E200 no component named 'shop.tap'" in message
    assert message.endswith("\n3 problems found")


# Pipelines


def test_a_pipeline_inherits_everything(shop: Any) -> None:
    """Stages, settings, inputs, columns to show, stage tables and the text are the base's unless said otherwise."""
    text = shop.changed(
        (
            'show = ["shop.price"]',
            'show = ["shop.price"]\ndoc = "base"\nstages = { sources = { timeout = "3s" }, filters.timeout = "1s" }',
        )
    )
    text += (
        '\n[pipelines.mine]\nextends = "shop"\nresult_size = 1\ninputs = { other = "shop.budget" }\n'
        'filters = ["...", "-affordable"]\nstages.sources.timeout = "2s"\n[pipelines.plain]\nextends = "shop"\n'
    )
    app = shop.load(text)
    base, mine = app["shop"].plan, app["mine"].plan
    assert [node.name for node in base.nodes] == [node.name for node in app["plain"].plan.nodes]
    assert [node.name for node in mine.nodes] == [node.name for node in base.nodes if node.name != "affordable"]
    assert (mine.result_size, mine.deadline, mine.show) == (1, base.deadline, base.show)
    assert list(mine.inputs) == ["buyer", "other"]
    data = extended(Document(text), []).data["pipelines"]["mine"]
    assert data["doc"] == "base"
    assert data["stages"] == {"sources": {"timeout": "2s"}, "filters": {"timeout": "1s"}}
    assert "extends" not in data


def test_a_base_may_stand_after_what_extends_it(shop: Any) -> None:
    """The order of pipelines in a file does not matter, nor how long the chain between them is."""
    text = shop.spec + '[pipelines.c]\nextends = "b"\n[pipelines.b]\nextends = "a"\n[pipelines.a]\nextends = "shop"\n'
    app = shop.load(text.replace('[pipelines.a]\nextends = "shop"', '[pipelines.a]\nextends = "shop"\nresult_size = 1'))
    assert [app[name].plan.result_size for name in "abc"] == [1, 1, 1]
    assert app["shop"].plan.result_size == 2


def test_files_first_then_pipelines(tmp_path: Path) -> None:
    """A pipeline of the base file may extend another, and its `"..."` waits for it through the merge of the files."""
    document = merged(
        tmp_path,
        base='[pipelines.root]\nfilters = ["a", "b", "c"]\n[pipelines.mine]\nextends = "root"\n'
        'filters = ["...", "-a", "base"]\n',
        main='extends = "base.toml"\n[pipelines.mine]\nfilters = ["near", "...", "-b", "-base"]\n'
        '[pipelines.root]\nfilters = ["...", "d"]\n',
    )
    assert document.data["pipelines"]["mine"]["filters"] == ["near", "c", "d"]
    place = document.locate(("pipelines", "mine", "filters", 1))
    assert (Path(place.name).name, place.line, place.column) == ("base.toml", 2, 22)


def test_a_nearer_extends_replaces_the_bases(tmp_path: Path) -> None:
    """What a pipeline extends is a key as any other: the nearer file's counts."""
    document = merged(
        tmp_path,
        base='[pipelines.a]\nresult_size = 1\n[pipelines.b]\nresult_size = 2\n[pipelines.m]\nextends = "a"\n',
        main='extends = "base.toml"\n[pipelines.m]\nextends = "b"\n',
    )
    assert document.data["pipelines"]["m"] == {"result_size": 2}
    assert document.bases == {"m": "b"}


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            '[pipelines.mine]\nextends = "shpo"\n',
            ["2:11: E108 extends: no pipeline 'shpo'|did you mean 'shop'?"],
        ),
        (
            '[pipelines.mine]\nextends = "base.toml"\n',
            ["2:11: E108 extends: no pipeline 'base.toml'|a file is extended at the top, above all tables"],
        ),
        (
            "[pipelines.mine]\nextends = 3\n",
            ["2:11: E102 extends: wanted the name of a pipeline, found the integer 3|"],
        ),
        (
            '[pipelines.mine]\nextends = "mine"\n',
            ["2:11: E108 the pipelines extend each other: mine -> mine|"],
        ),
        (
            '[pipelines.x]\nextends = "y"\n[pipelines.y]\nextends = "z"\n[pipelines.z]\nextends = "y"\n',
            ["6:11: E108 the pipelines extend each other: y -> z -> y|"],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nfilters = ["...", "-affordabel"]\n',
            ["3:19: E110 the base has no entry 'affordabel'|did you mean 'affordable'?"],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nfilters = ["...", "..."]\n',
            ["3:19: E110 '...' stands twice in filters|leave one of them out"],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nfilters = ["-affordable"]\n',
            ["3:12: E110 '-affordable' leaves an entry of the base out, but the list takes none|add the entry '...'"],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nside_effects = ["..."]\n',
            ["3:17: E110 '...' stands for side_effects of 'shop', which has none|leave the entry out"],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nselector = ["..."]\nfilters = ["..."]\n',
            [
                "3:13: E110 '...' stands for the entries of a base's list, and that of the base is the string 'top'"
                "|leave the entry out",
                "3:12: E102 selector: wanted a string, found a list of 0|",
            ],
        ),
        (
            '[pipelines.mine]\nextends = "shop"\nshow = ["...", "-shop.prise"]\n',
            ["3:16: E110 the base has no entry 'shop.prise'|did you mean 'shop.price'?"],
        ),
        (
            '[pipelines.mine]\nsources = ["shelf"]\nselector = "shop.first"\nshow = ["..."]\n'
            'side_effects = ["...", "-a"]',
            [
                "4:9: E110 '...' stands for a base's entries, and there is no base"
                '|add extends = "<pipeline>" to [pipelines.mine]',
                "5:17: E110 '...' stands for a base's entries, and there is no base"
                '|add extends = "<pipeline>" to [pipelines.mine]',
            ],
        ),
    ],
)
def test_mistakes_of_pipelines_that_extend(shop: Any, tables: str, expected: list[str]) -> None:
    """A base that is not there, a circle, and list entries that refer to nothing are told at their place."""
    text = tables + shop.spec.replace("schema = 1\n", "")
    with pytest.raises(SpecError) as caught:
        shop.load("schema = 1\n" + text)
    found = [
        f"{each.location.line - 1}:{each.location.column}: {each.code} {each.message}|{each.hint}"
        for each in caught.value.problems
    ]
    assert sorted(found) == sorted(expected)


def test_pipelines_chain_as_far_as_files(shop: Any) -> None:
    """Eight pipelines may stand behind one another; the ninth is reported once, with what is behind it."""

    def chain(length: int) -> str:
        tables = [f'[pipelines.p{at}]\nextends = "p{at - 1}"\n' for at in range(1, length + 1)]
        return str(shop.spec) + '[pipelines.p0]\nextends = "shop"\n' + "".join(tables)

    assert len(shop.load(chain(MAX_CHAIN - 1))) == MAX_CHAIN + 1
    message = shop.mistakes(chain(MAX_CHAIN + 5))
    assert "E108 extends: at most 8 pipelines may stand behind one another, found more" in message
    assert "= at pipelines.p8.extends" in message
    assert message.endswith("\n1 problem found")


def test_inherited_mistakes_are_reported_once_where_they_stand(shop: Any) -> None:
    """A mistake that ten pipelines inherit is one problem, at the base's own place."""
    text = shop.changed(
        ('filters = ["shop.banned", "affordable"]', 'filters = ["shop.baned", "affordable", 3]'),
        ("result_size = 2", "result_size = 0"),
    )
    text += "".join(f'\n[pipelines.x{at}]\nextends = "shop"\n' for at in range(10))
    message = shop.mistakes(text)
    assert "shop.toml:10:12: E200 no filter named 'shop.baned'" in message
    assert "shop.toml:10:40: E102 wanted a string" in message
    assert "shop.toml:4:15: E104 result_size: wanted at least 1" in message
    assert message.endswith("\n3 problems found")


def test_mistakes_in_a_base_file_are_shown_there(shop: Any, tmp_path: Path) -> None:
    """A mistake in the base has the base's file, line and caret, and one in the nearer file its own."""
    path = write(
        tmp_path,
        base=shop.changed(("markup = 0.5", "markup = true")),
        main='extends = "base.toml"\n[components.top]\nsize = "2"\n',
    )
    message = mistakes(shop, path)
    assert (
        "base.toml:21:10: E102 wanted number, found the boolean true\n    21 | markup = true\n       |          ^^^^"
        in message
    )
    assert "main.toml:3:8: E102 wanted integer, found the string '2'" in message
    assert message.endswith("\n2 problems found")


# Overrides


def test_overrides_come_after_extends(shop: Any, tmp_path: Path) -> None:
    """An override changes the table it names, inherited or not, and not what others inherited from it."""
    path = write(
        tmp_path,
        base=shop.spec,
        main='extends = "base.toml"\n[pipelines.mine]\nextends = "shop"\n',
    )
    app = load(
        path,
        registry=shop.registry,
        sets=["pipelines.shop.result_size=9", "pipelines.mine.stages.sources.timeout=1s", "components.top.size=5"],
    )
    assert (app["shop"].plan.result_size, app["mine"].plan.result_size) == (9, 2)
    assert app["mine"].plan.nodes[-1].component.size == 5


def test_overrides_cannot_extend(shop: Any) -> None:
    """`extends` and `"..."` in an override are mistakes with a message, for there is no base by then."""
    text = shop.spec + '[pipelines.mine]\nextends = "shop"\n'
    message = shop.mistakes(text, sets=["extends=base.toml", "pipelines.mine.extends=shop"])
    assert message.count("E108 extends cannot be overridden: overrides come after it") == 2
    message = shop.mistakes(text, sets=["pipelines.mine.filters=['...', '-affordable']"])
    assert (
        "--set pipelines.mine.filters=['...', '-affordable']: E110 '...' refers to a base, and an override replaces "
        "the whole list\n       = write all entries of the list"
    ) in message
    assert message.endswith("\n1 problem found")


def test_resolving_leaves_the_document_alone(tmp_path: Path) -> None:
    """The document that was read stays as it was, and resolving what is resolved changes nothing."""
    path = write(
        tmp_path, base="[pipelines.a]\nl = [1]\n", main="extends = 'base.toml'\n[pipelines.b]\nextends = 'a'\n"
    )
    document = Document.read(path)
    before = repr(document.data)
    once = extended(document, [])
    assert repr(document.data) == before
    twice = extended(once, [])
    assert twice.data == once.data == {"pipelines": {"a": {"l": [1]}, "b": {"l": [1]}}}
    twice.override(("pipelines", "b", "l"), [2], once.locate(()))
    assert once.data["pipelines"] == {"a": {"l": [1]}, "b": {"l": [1]}}
    assert twice.data["pipelines"]["a"] == {"l": [1]}


def test_a_small_file_cannot_ask_for_all_memory(shop: Any) -> None:
    """What is inherited in all has an end, which is reported instead of being filled."""
    big = "[pipelines.a]\ndoc = 'x'\nshow = [" + "1," * 3000 + "]\n"
    text = "schema = 1\n" + big + "".join(f"[pipelines.b{at}]\nextends = 'a'\n" for at in range(2000))
    problems: list[Any] = []
    document = extended(Document(text), problems)
    assert [problem.code for problem in problems] == ["E108"]
    assert f"more than {MAX_INHERITED} values" in problems[0].message
    assert sum(len(table.get("show") or ()) for table in document.data["pipelines"].values()) < MAX_INHERITED + 3001


# The rule as an invariant

NAMES = st.sampled_from("abcdef")
LISTS = st.lists(NAMES, max_size=4, unique=True)
TABLES = st.recursive(
    st.integers(0, 3) | LISTS,
    lambda inner: st.dictionaries(st.sampled_from("klm"), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


def by_the_rule(near: Any, base: Any) -> Any:
    """The rule for tables and values, written as simply as it can be."""
    if isinstance(near, dict) and isinstance(base, dict):
        both = {key: by_the_rule(near[key], base[key]) if key in near else base[key] for key in base}
        return both | {key: value for key, value in near.items() if key not in base}
    return near


def toml(value: Any) -> str:
    """A value of these tests as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return repr(value)


@settings(max_examples=200, deadline=None)
@given(near=TABLES, base=TABLES, far=TABLES)
def test_any_tables_merge_by_the_rule(near: Any, base: Any, far: Any) -> None:
    """Whatever stands in three pipelines that extend each other, the result is the rule's, and every value located."""
    tables = {"far": far, "base": {**base, "extends": "far"}, "near": {**near, "extends": "base"}}
    text = "[pipelines]\n" + "".join(f"{name} = {toml(table)}\n" for name, table in tables.items())
    problems: list[Any] = []
    document = extended(Document(text), problems)
    assert problems == []
    expected = by_the_rule(near, by_the_rule(base, far))
    assert document.data["pipelines"] == {"far": far, "base": by_the_rule(base, far), "near": expected}
    stack: list[tuple[tuple[Any, ...], Any]] = [(("pipelines", "near"), expected)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, at), item) for at, item in enumerate(value)]
        if not isinstance(value, dict):
            place = document.locate(path)
            assert place.text[place.column - 1 : place.column - 1 + place.length] == repr(value)


@settings(max_examples=200, deadline=None)
@given(base=LISTS, before=LISTS, after=LISTS, out=LISTS)
def test_any_lists_merge_by_the_rule(base: list[str], before: list[str], after: list[str], out: list[str]) -> None:
    """Own entries stand around the base's, in order, without those left out; each is found where it was written."""
    out = [name for name in out if name in base]
    near = [*before, *(f"-{name}" for name in out), "...", *after]
    text = f'[pipelines.base]\nfilters = {base}\n[pipelines.near]\nextends = "base"\nfilters = {near}\n'
    problems: list[Any] = []
    document = extended(Document(text), problems)
    assert problems == []
    merged_list = document.data["pipelines"]["near"]["filters"]
    assert merged_list == [*before, *(name for name in base if name not in out), *after]
    for at, name in enumerate(merged_list):
        place = document.locate(("pipelines", "near", "filters", at))
        assert place.text[place.column : place.column + place.length - 2] == name
        assert place.line == (5 if at < len(before) or at >= len(merged_list) - len(after) else 2)
