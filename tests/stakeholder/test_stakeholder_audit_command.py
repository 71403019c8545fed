"""`candidate-pipeline stakeholder audit`: on pools, on the bundled world, and with what people get wrong."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import typer
from stakeholder_audits import made_audit
from typer.testing import CliRunner

from candidate_pipeline.errors import DataError, MisconfigurationError, RequestError
from candidate_pipeline_stakeholder.audit import command, inputs
from candidate_pipeline_stakeholder.audit import run as running
from candidate_pipeline_stakeholder.audit.inputs import Asked, gather
from candidate_pipeline_stakeholder.pairs import Pairs
from candidate_pipeline_stakeholder.pairs_file import write_pairs
from candidate_pipeline_stakeholder.pool import Pool
from candidate_pipeline_stakeholder.utilities import POSITIVE, Utilities

ROOT = Path(__file__).resolve().parents[2]
FEATURES = ("favorite", "reply", "share", "block_author", "report")
SMALL = running.Effort(
    max_requests=6, max_rows=40, draws=20, seeds=2, regret_seeds=2, perturbations=2, factors=(0.5, 2.0),
    sigmas=(0.0, 0.3), sizes=(25, 100), noises=((0.25, 0.0),), regret_sizes=(0, 25), deltas=(0.0, 0.5, 1.0),
    regret_deltas=(0.0, 0.5, 1.0), mix_steps=2,
)  # fmt: skip


def drawn_pool(requests: int = 12, rows: int = 25, seed: int = 3) -> Pool:
    """A pool of drawn probabilities with groups and authors."""
    rng = np.random.default_rng(seed)
    count = requests * rows
    return Pool.of(
        FEATURES,
        rng.uniform(0.0, 0.5, (count, len(FEATURES))),
        request=np.repeat(np.arange(requests), rows),
        group=rng.choice(["sports & <b>", "news", "art"], count).tolist(),
        author=rng.integers(0, 9, count),
        score=rng.normal(size=count),
        selected=np.tile(np.arange(rows) < 5, requests),
    )


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    """A pool that was written."""
    drawn_pool().write(tmp_path / "drawn.parquet")
    return tmp_path / "drawn.parquet"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command do little, whatever it is asked for."""
    monkeypatch.setattr(running, "FULL", SMALL)
    monkeypatch.setattr(running, "QUICK", SMALL)


def run(*args: object) -> Any:
    """Call the command as the program does."""
    app = typer.Typer()
    app.command()(command.audit)
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("small")
def test_a_pool_is_audited_in_every_format(pool_file: Path, tmp_path: Path) -> None:
    """The terminal, the page and the JSON tell of the same audit; the folder holds what makes it again."""
    out = tmp_path / "made" / "report"
    result = run("--pool", pool_file, "--mix", "user=1,society=.5", "--out", out)
    assert result.exit_code == 0
    assert {each.name for each in out.iterdir()} == {"audit.html", "audit.json", "pool.parquet"}
    for part in ("What leaving a stakeholder out costs it", "user .67, society .33", "Pairs needed"):
        assert part in result.stdout
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert "sports &amp; &lt;b&gt;" in page
    again = run("--pool", out / "pool.parquet", "--mix", "user=1,society=.5", "--format", "json")
    before, after = json.loads((out / "audit.json").read_text(encoding="utf-8")), json.loads(again.stdout)
    assert before.pop("provenance")["pool"] == after.pop("provenance")["pool"]
    assert before == after


@pytest.mark.usefixtures("small")
def test_the_same_call_gives_the_same_bytes(pool_file: Path, tmp_path: Path) -> None:
    """The page and the JSON are the same bytes when the command runs again."""
    for name in ("one", "two"):
        run("--pool", pool_file, "--html", tmp_path / f"{name}.html", "--json", tmp_path / f"{name}.json")
    for kind in ("html", "json"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """Every number of a record or of plain data by its place; NaN and infinities as `None`."""
    if attrs.has(type(value)):
        value = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if isinstance(value, dict) or hasattr(value, "items"):
        parts = {str(key): each for key, each in value.items()}
        return {place: leaf for key, each in parts.items() for place, leaf in leaves(each, f"{where}.{key}").items()}
    if isinstance(value, list | tuple):
        return {place: leaf for at, each in enumerate(value) for place, leaf in leaves(each, f"{where}.{at}").items()}
    return {where: None if isinstance(value, float) and not math.isfinite(value) else value}


def test_every_number_of_the_json_is_the_records(
    pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON holds every figure of the record, unrounded, and no other."""
    made = made_audit(["user", "platform", "society"])
    monkeypatch.setattr(running, "run_audit", lambda *_, **__: made)
    file = tmp_path / "audit.json"
    run("--pool", pool_file, "--json", file)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found.pop("findings")
    assert found.pop("provenance")["seed"] == 0
    assert leaves(found) == leaves(made)


@pytest.mark.usefixtures("small")
def test_pairs_are_held_against_the_utilities(pool_file: Path, tmp_path: Path) -> None:
    """Given pairs show up with how many of them each utility orders alike."""
    rng = np.random.default_rng(5)
    left, right = rng.uniform(size=(2, 40, len(FEATURES)))
    liked = [at for at, name in enumerate(FEATURES) if name in POSITIVE]
    outcome = np.where(left[:, liked].sum(axis=1) > right[:, liked].sum(axis=1), 1, -1)
    write_pairs(tmp_path / "pairs.parquet", Pairs.of(FEATURES, left, right, outcome, stakeholder="user"))
    result = run("--pool", pool_file, "--pairs", tmp_path / "pairs.parquet")
    assert result.exit_code == 0
    assert "Given pairs and utilities" in result.stdout


@pytest.mark.usefixtures("small")
def test_utilities_come_from_a_file(pool_file: Path, tmp_path: Path) -> None:
    """The stakeholders of a file are audited in equal parts, and one alone is enough."""
    Utilities.of({"readers": {"favorite": 1.0, "report": -2.0}}).write(tmp_path / "mine.toml")
    result = run("--pool", pool_file, "--utilities", tmp_path / "mine.toml", "--html", tmp_path / "mine.html")
    assert result.exit_code == 0
    assert "readers 1.00" in result.stdout
    assert "from mine.toml" in result.stdout
    assert "Not done." in (tmp_path / "mine.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small")
def test_no_path_of_this_machine_is_told(pool_file: Path, tmp_path: Path) -> None:
    """The page and the JSON name files, not where they lie."""
    Utilities.of({"a": {"favorite": 1.0}, "b": {"report": -1.0}}).write(tmp_path / "u.toml")
    out = tmp_path / "out"
    run("--pool", pool_file, "--utilities", tmp_path / "u.toml", "--out", out)
    for name in ("audit.html", "audit.json"):
        text = (out / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text
        assert "u.toml" in text


@pytest.mark.usefixtures("small")
def test_an_interrupted_audit_reports_what_is_done(
    pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C leaves a report of the parts that are done, and the exit code says so."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("candidate_pipeline_stakeholder.audit.recovery.recovery", interrupt)
    result = run("--pool", pool_file, "--html", tmp_path / "part.html")
    assert result.exit_code == 130
    page = (tmp_path / "part.html").read_text(encoding="utf-8")
    assert running.INTERRUPTED in page
    assert "What more data for one does to another" in page


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (["--mix", "user=1,nobody=2"], MisconfigurationError, "no stakeholder 'nobody'"),
        (["--mix", "user"], DataError, "mix"),
        (["--mix", "user=0"], DataError, "wanted a weight other than 0"),
        (["--viewers", "3"], MisconfigurationError, "found --viewers and --pool"),
        (["--utilities", "missing.toml"], DataError, "missing.toml: no such file"),
        (["--pairs", "missing.parquet"], DataError, "missing.parquet"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    pool_file: Path, args: list[str], error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong option is an error that says what was wanted."""
    monkeypatch.setattr(running, "run_audit", pytest.fail)
    with pytest.raises(error, match=re.escape(says)):
        run("--pool", pool_file, *args)


def test_unreadable_files_are_told(pool_file: Path, tmp_path: Path) -> None:
    """Utilities, pools and captures that cannot be read are named with the reason."""
    bad = tmp_path / "bad.toml"
    bad.write_text("schema = 1\nfeatures = [", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.toml: not TOML"):
        run("--pool", pool_file, "--utilities", bad)
    with pytest.raises(DataError, match=r"bad\.toml: cannot be read as Parquet"):
        run("--pool", bad)
    with pytest.raises(DataError, match="no such file"):
        run("--pool", tmp_path / "none.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="captures"):
        run("--captures", tmp_path / "empty")


def test_an_empty_pool_is_told(tmp_path: Path) -> None:
    """A pool without rows is refused, and so is one that no utility has a feature of."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"feature.favorite": pa.array([], pa.float64())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="0 rows"):
        run("--pool", tmp_path / "empty.parquet")
    Pool.of(["height"], [[1.0], [2.0]]).write(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no feature of the utilities"):
        run("--pool", tmp_path / "other.parquet")


@pytest.mark.parametrize("option", ["--html", "--json", "--out"])
def test_an_unwritable_place_is_told_first(
    pool_file: Path, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the report cannot be written, the command says so before it computes anything."""
    monkeypatch.setattr(running, "run_audit", pytest.fail)
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(RequestError, match=f"{option} .*file.*cannot be written"):
        run("--pool", pool_file, option, file / "below")
    if option != "--out":
        with pytest.raises(RequestError, match="found a folder"):
            run("--pool", pool_file, option, tmp_path)


@pytest.mark.parametrize("args", [["--viewers", "0"], ["--delta", "2"], ["--size", "0"], ["--format", "xml"], ["--no"]])
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    """An option out of its range or unknown is wrong usage."""
    assert run(*args).exit_code == 2


@pytest.mark.usefixtures("small")
def test_the_bundled_world_is_audited_without_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no option the command runs for_you for some people and audits the declared stakeholders."""
    if not (ROOT / "pipelines.toml").is_file():
        pytest.skip("needs the repository's pipelines.toml")
    shutil.copy(ROOT / "pipelines.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "VIEWERS", 2)
    result = run()
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert re.search(r"for_you on [^:]+: [\d,]+ candidates of 2 requests", told)
    assert "Utilities of user, platform and society, as declared by the label utilities" in told
    assert "Mix: equal parts" in told
    assert [each.name for each in tmp_path.iterdir()] == ["pipelines.toml"], "nothing is written unasked"


def test_an_interrupted_collection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """When Ctrl-C stops the requests, those that were answered are audited, and the exit code says so."""

    class App:
        dataset = None

        def __enter__(self) -> App:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getitem__(self, name: str) -> str:
            return name

    def collect(_pipeline: object, viewers: list[int], _seed: int, *, track: Any) -> Pool:
        for _ in track("running", viewers, len(viewers)):
            if stop:
                break
        return drawn_pool()

    monkeypatch.setattr(inputs, "_own_of", lambda _: (None, App()))
    monkeypatch.setattr(inputs, "collect", collect)
    monkeypatch.setattr("candidate_pipeline_stakeholder.viewers.draw_viewers", lambda *_: np.arange(4))
    for stop in (True, False):
        assert gather(Asked()).interrupted == stop


def test_the_pipelines_own_scorer_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pipeline has a stakeholder scorer, its stakeholders, its mix and its way to standardise are audited."""
    if not (ROOT / "pipelines.toml").is_file():
        pytest.skip("needs the repository's pipelines.toml")
    drawn_pool().write(tmp_path / "pool.parquet")
    text = (ROOT / "pipelines.toml").read_text(encoding="utf-8")
    text = text.replace('"ranker", "weighted", "diversity", "out_of_network"', '"ranker", "mixed"')
    text += '\n[components.mixed]\nuse = "stakeholder.scorer"\nmix = { fans = 3, foes = -1 }\nnormalise = "none"\n'
    text += "stakeholders = { fans = { favorite = 1.0 }, foes = { report = 1.0 } }\n"
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    found = gather(Asked(config=tmp_path / "own.toml", pool=tmp_path / "pool.parquet"))
    assert found.utilities.names == ("fans", "foes")
    assert found.mix == {"fans": 3, "foes": -1}
    assert found.normalise == "none"
    assert "those of the scorer mixed" in found.about
    assert found.provenance["mix"] == {"fans": 0.75, "foes": -0.25}
    other = gather(Asked(config=tmp_path / "own.toml", pool=tmp_path / "pool.parquet", mix="foes=1"))
    assert other.mix == {"foes": 1.0}


def test_the_command_is_light_until_it_runs() -> None:
    """Importing the command loads neither matplotlib nor scipy."""
    import subprocess
    import sys

    code = (
        "import sys, candidate_pipeline_stakeholder.audit.command as c; "
        "print(sorted({'matplotlib', 'scipy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_option_is_documented() -> None:
    """The page on stakeholders names every option of the command."""
    text = (ROOT / "docs" / "stakeholders.md").read_text(encoding="utf-8")
    text = text[text.index("## The audit") :]
    app = typer.Typer()
    app.command()(command.audit)
    options = [each for parameter in typer.main.get_command(app).params for each in parameter.opts]
    missing = [each for each in options if f"`{each}" not in text and each not in {"--install-completion", "--help"}]
    assert [each for each in missing if "completion" not in each] == []


def test_of_several_stakeholder_scorers_one_is_named(tmp_path: Path, pool_file: Path) -> None:
    """A pipeline with two scorers is not audited by the first of them unasked; --scorer chooses."""
    example = Path(__file__).resolve().parents[2] / "examples" / "stakeholders" / "pipelines.toml"
    spec = tmp_path / "two.toml"
    spec.write_text(
        f'schema = 1\nextends = "{example}"\n[pipelines.for_you]\nscorers = ["ranker", "stakeholders", "second"]\n'
        '[components.second]\nuse = "stakeholder.scorer"\nmix = { society = 1.0 }\n',
        encoding="utf-8",
    )
    with pytest.raises(MisconfigurationError, match="choose one with --scorer: stakeholders, second"):
        gather(Asked(config=spec, pool=pool_file))
    assert gather(Asked(config=spec, pool=pool_file, scorer="second")).mix == {"society": 1.0}
    with pytest.raises(MisconfigurationError, match="no stakeholder scorer 'third'"):
        gather(Asked(config=spec, pool=pool_file, scorer="third"))
