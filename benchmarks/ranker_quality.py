"""What bfloat16 and int8 do to rankings of trained models: `python benchmarks/ranker_quality.py`.

The bundled model and one trained on ML-100K rank lists of 64 and of 1,500 candidates for real viewers at real times, by
the weighted score that the pipeline serves. Each variant is compared with the plain jitted forward in float32: which
posts are the best three, how alike the orders are, and how well the held-out favourite is found. The prefix-shared
program in float32 and a random order are the controls. Intervals: 95 %, bootstrap over requests.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import typer
from numpy.typing import NDArray
from quality_lists import ROOT, DataSet, ListToRank
from quality_metrics import kendall_tau, top_overlap, worth

from candidate_pipeline_feed.evaluation.bootstrap import DRAWS, Bootstrap, Interval
from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import BackendOptions, Precision, RankerBackend
from phoenix_recsys.backend_registry import make_backend
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import quantize_params
from phoenix_recsys.requests import Scores
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import init_params

Float64 = NDArray[np.float64]

MEASURES: Final = ("overlap", "tau", "ndcg", "auc", "mean_error", "max_error")
GOALS: Final = {
    "bfloat16, kv_cache": (0.97, 0.98),
    "bfloat16, jit": (0.97, 0.98),
    "int8, kv_cache": (0.95, 0.95),
    "int8, jit": (0.95, 0.95),
}
"""Least top-3 overlap and Kendall's tau."""
REFERENCE: Final = "float32, jit"
RANDOM: Final = "random order"
SIZES: Final = (64, 1500)
QUICK_SIZES: Final = (16,)
README: Final = Path(__file__).with_name("README.md")
BEGIN: Final = "<!-- quality:begin -->"
END: Final = "<!-- quality:end -->"


def int8_tables(artifact: Artifact) -> Artifact:
    """The artifact with its embedding tables quantised, its weights untouched."""
    return attrs.evolve(artifact, tables=QuantizedTables.quantize(*_tables(artifact)))


def int8_weights(artifact: Artifact) -> Artifact:
    """The artifact with its weight matrices quantised, its tables untouched."""
    return attrs.evolve(artifact, params=quantize_params(artifact.params))


def float32_tables(backend: RankerBackend, artifact: Artifact) -> None:
    """Give a backend float32 tables in place of its own."""
    changed: Any = backend
    changed.tables = EmbeddingTables(*(jnp.asarray(table, jnp.float32) for table in _tables(artifact)))


def _tables(artifact: Artifact) -> EmbeddingTables:
    if isinstance(artifact.tables, QuantizedTables):
        raise typer.BadParameter("the ranker's tables are int8 already: name a data directory with a float model")
    return artifact.tables


@attrs.frozen
class Variant:
    """A way to serve a ranker.

    Args:
        name: What the tables call it.
        backend: A registered one.
        precision: What it computes in.
        prepared: What becomes of the artifact before.
        changed: What becomes of the backend after.
        part: Whether it is there to tell which part of another one costs what.
        quick: Whether a quick run has it.
    """

    name: str
    backend: str
    precision: Precision
    prepared: Callable[[Artifact], Artifact] = lambda artifact: artifact
    changed: Callable[[RankerBackend, Artifact], None] = lambda _backend, _artifact: None
    part: bool = False
    quick: bool = False

    def serve(self, artifact: Artifact, sizes: Sequence[int]) -> RankerBackend:
        """The backend; it compiles on first use."""
        # Room for every list, so that none is scored in turns.
        buckets = tuple(-(-size // 32) * 32 for size in sizes)
        options = BackendOptions(self.precision, candidate_buckets=buckets, cache_bytes=0)
        made = make_backend(self.backend, self.prepared(artifact), options)
        self.changed(made, artifact)
        return made


VARIANTS: Final = (
    Variant(REFERENCE, "jit", "float32", quick=True),
    Variant("float32, kv_cache", "kv_cache", "float32", quick=True),
    Variant("bfloat16, kv_cache", "kv_cache", "bfloat16"),
    Variant("bfloat16, jit", "jit", "bfloat16"),
    Variant("int8, kv_cache", "kv_cache", "int8", quick=True),
    Variant("int8, jit", "jit", "int8"),
    Variant("int8 but for float32 tables, kv_cache", "kv_cache", "int8", changed=float32_tables, part=True),
    Variant("float32 with int8 weights, kv_cache", "kv_cache", "float32", int8_weights, part=True),
    Variant("float32 with int8 tables, kv_cache", "kv_cache", "float32", int8_tables, part=True),
)


@attrs.define(eq=False)
class Figures:
    """One model's rankings of lists of one size, by request.

    Args:
        values: By variant the rows of `MEASURES`; NDCG and AUC are the reference's own, of all others changes to it.
        users: Whose each list is.
        candidates: How many each has.
        history: How many events its viewer's history has.
    """

    values: dict[str, list[tuple[float, ...]]] = attrs.field(factory=dict)
    users: list[int] = attrs.field(factory=list)
    candidates: list[int] = attrs.field(factory=list)
    history: list[int] = attrs.field(factory=list)

    def of(self, variant: str, measure: str) -> Float64:
        """A measure of every request, float64 [n]."""
        return np.array(self.values[variant], np.float64)[:, MEASURES.index(measure)]


def measure(
    data: DataSet, artifact: Artifact, variants: Sequence[Variant], count: int, sizes: tuple[int, ...], seed: int
) -> dict[int, Figures]:
    """Rank everything by everything.

    Args:
        data: What to rank.
        artifact: By which model.
        variants: The reference and others.
        count: Requests.
        sizes: Candidates of the lists of each.
        seed: Of the random order.
    """
    backends = {variant.name: variant.serve(artifact, sizes) for variant in variants}
    found = {size: Figures() for size in sizes}
    rng = np.random.default_rng([seed, 11])
    for request in data.requests(count, sizes):
        viewers = {name: backend.prepare(request.viewer, request.history) for name, backend in backends.items()}
        for size, listed in request.lists.items():
            answers = {name: backend.score_prepared(viewers[name], listed.items) for name, backend in backends.items()}
            figures = found[size]
            figures.users.append(request.viewer)
            figures.candidates.append(len(listed.items))
            figures.history.append(len(request.history))
            for name, row in _compare(data, listed, answers, rng).items():
                figures.values.setdefault(name, []).append(row)
    return found


def _compare(
    data: DataSet, listed: ListToRank, answers: Mapping[str, Scores], rng: np.random.Generator
) -> dict[str, tuple[float, ...]]:
    """The measures of one list by variant."""
    served = data.heads.columns
    exact = answers[REFERENCE].logits[:, served].astype(np.float64)
    reference, best = data.ranked(listed, answers[REFERENCE])
    ndcg, auc = worth(reference, listed.target)
    rows: dict[str, tuple[float, ...]] = {REFERENCE: (1.0, 1.0, ndcg, auc, 0.0, 0.0)}

    def compared(values: Float64, order: NDArray[np.intp], error: Float64) -> tuple[float, ...]:
        own = worth(values, listed.target)
        alike = (top_overlap(best, order), kendall_tau(reference, values))
        return (*alike, own[0] - ndcg, own[1] - auc, float(error.mean()), float(error.max()))

    for name, scores in answers.items():
        if name != REFERENCE:
            rows[name] = compared(*data.ranked(listed, scores), np.abs(scores.logits[:, served] - exact))
    values = rng.random(len(listed.items))
    rows[RANDOM] = compared(values, np.argsort(-values), np.full(1, np.nan))
    return rows


def random_parameters(artifact: Artifact, seed: int) -> Artifact:
    """The same shapes with parameters and tables as training starts from."""
    config = artifact.config
    fresh = init_params(config, jax.random.PRNGKey(seed), "trainable")
    params = {module: {name: np.asarray(value) for name, value in entries.items()} for module, entries in fresh.items()}
    tables = EmbeddingTables.random(seed, artifact.hash_params, config.emb_size)
    return attrs.evolve(artifact, params=params, tables=EmbeddingTables(*map(np.asarray, tables)))


def table_of(size: int, figures: Figures, seed: int, *, trained: bool) -> list[str]:
    """The markdown table of lists of one size; random parameters find nothing, so theirs leaves the truth out."""
    bootstrap = Bootstrap(np.array(figures.users, np.int64), seed)

    def interval(name: str, key: str) -> Interval:
        return bootstrap.interval(figures.of(name, key))

    heads = [f"against {REFERENCE}", "top-3 overlap", "Kendall τ-b"]
    heads += ["change in NDCG@10", "change in AUC"] if trained else []
    heads.append("logit error, mean, max")
    lines = [f"Lists of {size:,}."]
    if trained:
        ndcg, auc = (_share(interval(REFERENCE, key), 3) for key in ("ndcg", "auc"))
        lines[0] += f" {REFERENCE}: NDCG@10 {ndcg}, AUC {auc}."
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in figures.values:
        if name == REFERENCE:
            continue
        cells = [name, _share(interval(name, "overlap")), _share(interval(name, "tau"))]
        cells += [_change(interval(name, key)) for key in ("ndcg", "auc")] if trained else []
        mean, largest = figures.of(name, "mean_error").mean(), figures.of(name, "max_error").max()
        cells.append("" if np.isnan(mean) else f"{mean:.2g}, {largest:.2g}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _share(interval: Interval, digits: int = 4) -> str:
    return f"{interval.mean:.{digits}f} ({interval.low:.{digits}f} … {interval.high:.{digits}f})"


def _change(interval: Interval) -> str:
    # Rounded before the sign is printed: nothing is "-0.0000".
    mean, low, high = (round(value, 4) + 0.0 for value in (interval.mean, interval.low, interval.high))
    return f"{mean:+.4f} ({low:+.4f} … {high:+.4f})" if mean or low or high else "0"


def verdicts(title: str, figures: Figures) -> list[str]:
    """The goals, met or missed by lists of one size."""
    lines = []
    for name, goals in GOALS.items():
        if name in figures.values:
            means = [float(figures.of(name, key).mean()) for key in ("overlap", "tau")]
            met = all(mean >= goal for mean, goal in zip(means, goals, strict=True))
            shown = ", ".join(f"{mean:.4f} of {goal:.2f}" for mean, goal in zip(means, goals, strict=True))
            lines.append(f"- {'met' if met else 'MISSED'}: {name}, {title}: {shown}")
    return lines


def describe(artifact: Artifact, found: Mapping[int, Figures]) -> str:
    """What was measured on."""
    config, any_size = artifact.config, next(iter(found.values()))
    full = np.mean([length >= config.history_seq_len for length in any_size.history])
    short = "".join(
        f" Of the lists of {size:,}, {np.mean([each < size for each in figures.candidates]):.0%} have fewer, for the "
        f"catalogue had no more then: at least {min(figures.candidates):,}."
        for size, figures in found.items()
        if min(figures.candidates) < size
    )
    return (
        f"{len(any_size.users)} requests of {len(set(any_size.users))} people.{short} The ranker is "
        f"{config.emb_size} wide with {config.model.num_layers} layers and reads {config.history_seq_len} events; "
        f"{full:.0%} of the histories fill that, the shortest has {min(any_size.history)}."
    )


def section(source: Path | None, *, trained: bool, count: int, quick: bool, seed: int) -> tuple[str, dict[str, Any]]:
    """One model's tables.

    Args:
        source: A data directory; None for the bundled world.
        trained: By its model, or by one of the same shapes with random parameters.
        count: Requests.
        quick: Short lists and few variants.
        seed: The source of all draws.

    Returns:
        The text, and the goals and all figures by name.
    """
    world = DataSet(source, seed)
    artifact = world.artifact if trained else random_parameters(world.artifact, seed)
    chosen = [each for each in VARIANTS if (each.quick or not quick) and (trained or not each.part)]
    found = measure(world, artifact, chosen, count, QUICK_SIZES if quick else SIZES, seed)
    title = f"{world.name}, {'trained' if trained else 'random parameters'}"
    lines = [f"### {title}", "", describe(artifact, found)]
    if trained:
        lines[-1] += f" Weights: {world.weights}. Truth: {world.split.info}."
    goals: list[str] = []
    for size, figures in found.items():
        lines += ["", *table_of(size, figures, seed, trained=trained)]
        goals += verdicts(f"{world.name}, lists of {size:,}", figures) if trained else []
    written = {f"{title}, {size}": attrs.asdict(figures) for size, figures in found.items()}
    return "\n".join(lines), {"goals": goals, "figures": written}


def write_section(text: str, file: Path) -> None:
    """Put the figures into a document.

    Raises:
        BadParameter: It has no place for them.
    """
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise typer.BadParameter(f"{file}: wanted {BEGIN} and {END}, between which the figures go; found no such lines")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(
    requests: Annotated[int, typer.Option(min=2, help="Requests of each data set.")] = 500,
    data: Annotated[
        Path, typer.Option(help="ML-100K with trained models; left out where there is no such directory.")
    ] = ROOT / "data" / "ml-100k",
    seed: Annotated[int, typer.Option(min=0, help="The source of all draws.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Few requests of the bundled world; for tests.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every figure there.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the tables into benchmarks/README.md.")] = False,
) -> None:
    """Compare rankings by precision."""
    started = time.monotonic()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        print(text + "\n", flush=True)

    say(
        f"python {platform.python_version()}, jax {jax.__version__} on {jax.default_backend()} (matmul precision "
        f"highest), numpy {np.__version__}, {os.cpu_count()} CPUs, {platform.machine()}; seed {seed}, "
        f"{DRAWS} draws of the bootstrap."
    )
    sources: list[Path | None] = [None]
    if not quick and data.is_dir():
        sources.append(data)
    elif not quick:
        say(f"{data}: no such directory, so ML-100K is left out; fetch it and train on it as the README says.")
    goals: list[str] = []
    figures: dict[str, Any] = {}
    with jax.default_matmul_precision("highest"):
        # What counts first: the trained models, then the same shapes with random parameters.
        for trained in (True,) if quick else (True, False):
            for source in sources:
                text, found = section(
                    source, trained=trained, count=min(requests, 4) if quick else requests, quick=quick, seed=seed
                )
                say(text)
                goals += found["goals"]
                figures |= found["figures"]
    wanted = "Top-3 overlap and Kendall τ of trained models: bfloat16 .97 and .98, int8 .95 and .95."
    say("### Goals\n\n" + wanted + "\n\n" + "\n".join(goals))
    say(f"The run took {time.monotonic() - started:.0f} s.")
    if json_file is not None:
        json_file.write_text(json.dumps({"measures": MEASURES, "figures": figures}), encoding="utf-8")
    if write:
        write_section("\n\n".join(said), README)


if __name__ == "__main__":
    typer.run(main)
