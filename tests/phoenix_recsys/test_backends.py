"""The plain backends, eager and jitted, in every precision; and what all of the library's backends have in common."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.backend import PRECISIONS, BackendOptions, CacheCounts, Precision, RankerBackend
from phoenix_recsys.backend_registry import OWN, make_backend
from phoenix_recsys.config import RankerConfig, TransformerConfig
from phoenix_recsys.device_tables import DeviceTables
from phoenix_recsys.golden import tolerances as tol
from phoenix_recsys.golden.model_files import OPTIONAL_INPUTS, VARIANTS, fields, ranker_config, read_meta
from phoenix_recsys.golden.report import params_under, read_fixture
from phoenix_recsys.hashing import HashParams
from phoenix_recsys.inputs import Embeddings, RankerBatch
from phoenix_recsys.plain_backend import EagerRanker, JitRanker, PreparedUser, jit_model, jit_params
from phoenix_recsys.quantized_rows import dequantize, quantize_rows
from phoenix_recsys.quantized_tables import QuantizedTables
from phoenix_recsys.quantized_weights import MATRICES, QuantizedMatrix, quantize_params
from phoenix_recsys.requests import History, Items, Scores
from phoenix_recsys.served import device_params, device_tables
from phoenix_recsys.tables import EmbeddingTables
from phoenix_recsys.transforms import init_params
from phoenix_recsys.turns import Turn

ACTIONS, WINDOW = 5, 12
SIZES = BackendOptions(candidate_buckets=(4, 16), history_buckets=(6, WINDOW), batch_buckets=(1, 3))
REDUCED: tuple[Precision, ...] = ("bfloat16", "int8")
SEED = st.integers(0, 2**16)
FEW = settings(max_examples=10, deadline=None)
FIXTURES = Path(__file__).parent / "fixtures"
RANKER_FILES = ("jan_ranker_tiny", "may_ranker_tiny_gqa")
"""The easiest and the hardest."""


def _history(rng: np.random.Generator, count: int) -> History:
    return History(
        rng.integers(1, 2**62, count),
        rng.integers(0, 2**62, count),
        rng.random((count, ACTIONS)) > 0.5,
        surfaces=rng.integers(0, 16, count),
        dwell_seconds=rng.exponential(10, count),
    )


def _items(rng: np.random.Generator, count: int) -> Items:
    created = rng.integers(1_700_000_000, 1_700_100_000, count)
    ids, surfaces = rng.integers(1, 2**62, count), rng.integers(0, 16, count)
    return Items(ids, rng.integers(0, 2**62, count), surfaces, created + 7200, created)


def _some(items: Items, rows: Any) -> Items:
    return Items(*(getattr(items, field.name)[rows] for field in attrs.fields(Items)))


def _same_bits(found: Scores, wanted: Scores) -> None:
    np.testing.assert_array_equal(found.logits, wanted.logits)
    np.testing.assert_array_equal(np.asarray(found.continuous), np.asarray(wanted.continuous))


@pytest.fixture(scope="module")
def jitted(strong_ranker: Artifact) -> dict[Precision, JitRanker]:
    """Warm, by precision; float32 with two buckets of each kind, the others with two batches."""
    few = attrs.evolve(SIZES, candidate_buckets=(16,), history_buckets=None)
    made = {p: JitRanker(strong_ranker, attrs.evolve(few, precision=p)) for p in REDUCED}
    made["float32"] = JitRanker(strong_ranker, SIZES)
    for ranker in made.values():
        ranker.warm_up()
    return made


@pytest.fixture(scope="module")
def eager(strong_ranker: Artifact) -> dict[Precision, EagerRanker]:
    """By precision."""
    return {p: EagerRanker(strong_ranker, BackendOptions(p, candidate_buckets=(16,))) for p in PRECISIONS}


def test_eager_and_jit_agree(eager: dict[Precision, EagerRanker], jitted: dict[Precision, JitRanker]) -> None:
    """Dense attention op by op and the compiled split one give the same float32 scores, whatever is padded."""
    rng = np.random.default_rng(0)
    for events, count in ((0, 3), (WINDOW, 20)):
        history, items = _history(rng, events), _items(rng, count)
        wanted, found = (each["float32"].score(7, history, items) for each in (eager, jitted))
        np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=tol.LOGIT_F32)
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=0, atol=tol.LOGIT_F32)
        np.testing.assert_allclose(
            np.asarray(found.continuous), np.asarray(wanted.continuous), rtol=0, atol=tol.LOGIT_F32
        )


@pytest.mark.parametrize("backend", ["eager", "jitted"])
@pytest.mark.parametrize("precision", REDUCED)
def test_reduced_precisions_stay_close(
    request: pytest.FixtureRequest, eager: dict[Precision, EagerRanker], backend: str, precision: Precision
) -> None:
    """Served bfloat16 and int8 scores lie near the float32 ones, tables included, and are not the same."""
    reduced = request.getfixturevalue(backend)[precision]
    rng = np.random.default_rng(1)
    gaps = []
    for events in (0, 5, WINDOW):
        history, items = _history(rng, events), _items(rng, 16)
        wanted = eager["float32"].score(7, history, items).logits
        gaps.append(np.abs(reduced.score(7, history, items).logits - wanted))
    limits = tol.LOGITS[precision]
    assert 1e-5 < np.mean(gaps) <= limits.mean
    assert np.max(gaps) <= limits.largest


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", RANKER_FILES)
def test_compiled_precisions_keep_to_the_published_results(name: str, precision: Precision) -> None:
    """What ``jit`` compiles stays within the fixture's tolerances, with embedding rows in int8 as well."""
    path = FIXTURES / f"{name}.npz"
    arrays = read_fixture(path)
    meta, valid = read_meta(path, arrays), np.asarray(arrays["mask/candidate_valid"])
    variant = "full" if "out/f32/full/logits" in arrays else "base"
    batch = fields(path, arrays, RankerBatch, "in/", without=OPTIONAL_INPUTS if variant == "base" else ())
    embeddings = fields(path, arrays, Embeddings, "emb/")
    if precision == "int8":
        embeddings = jax.tree.map(_as_int8_rows, embeddings)
    config = ranker_config(meta, "bfloat16", VARIANTS[variant])
    params = jit_params(device_params(params_under(arrays, "params/"), precision), precision)
    found = jax.jit(jit_model(config, precision).apply)(params, batch, embeddings).logits
    assert found.dtype == np.float32, "fprop_dtype of the configuration is not read"
    gap = np.abs(np.asarray(found) - arrays[f"out/f32/{variant}/logits"])[valid]
    limits = tol.LOGITS[precision]
    assert gap.max() <= limits.largest
    assert limits.mean is None or gap.mean() <= limits.mean


def _as_int8_rows(rows: Any) -> Any:
    found = dequantize(*quantize_rows(np.asarray(rows).reshape(-1, rows.shape[-1])))
    return found.reshape(rows.shape)


@pytest.mark.parametrize("precision", PRECISIONS)
@FEW
@given(sizes=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 40)), min_size=1, max_size=5), seed=SEED)
def test_merged_requests_score_as_alone(
    jitted: dict[Precision, JitRanker], precision: Precision, sizes: list[tuple[int, int]], seed: int
) -> None:
    """Requests of several viewers in one call, whatever their sizes, score as one by one, in their own order."""
    rng, ranker = np.random.default_rng(seed), jitted[precision]
    requests = [(ranker.prepare(i, _history(rng, e)), _items(rng, count)) for i, (e, count) in enumerate(sizes)]
    close = 2e-5 if precision == "float32" else tol.LOGITS[precision].largest
    for (viewer, items), found in zip(requests, ranker.score_many(requests), strict=True):
        wanted = ranker.score_prepared(viewer, items)
        assert found.logits.shape == (len(items), ACTIONS)
        np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=close)


@pytest.mark.parametrize("precision", PRECISIONS)
@FEW
@given(seed=SEED)
def test_rows_are_bit_identical_in_any_company(
    jitted: dict[Precision, JitRanker], precision: Precision, seed: int
) -> None:
    """An item, and a request, score the same to the last bit beside others in their buckets, in any order."""
    rng, ranker = np.random.default_rng(seed), jitted[precision]
    viewer, items = ranker.prepare(7, _history(rng, int(rng.integers(7, 13)))), _items(rng, 16)
    wanted = ranker.score_prepared(viewer, items)
    rows = rng.permutation(16)[: rng.integers(5, 17)]
    found = ranker.score_prepared(viewer, _some(items, rows))
    np.testing.assert_array_equal(found.logits, wanted.logits[rows])
    first, second, third = ((ranker.prepare(i, _history(rng, 9)), _items(rng, 8)) for i in range(3))
    together = ranker.score_many([first, second, third])
    moved = ranker.score_many([third, first])
    _same_bits(moved[0], together[2])
    _same_bits(moved[1], together[0])


def test_nothing_recompiles_while_serving(jitted: dict[Precision, JitRanker], rng: np.random.Generator) -> None:
    """After warm-up, requests and batches of any size run the compiled programs, one for each set of buckets."""
    for precision, ranker in jitted.items():
        programs = 2 * 2 * 2 if precision == "float32" else 2
        assert ranker.stats().compilations == programs
        for events, count in ((0, 0), (0, 1), (3, 4), (6, 5), (7, 16), (12, 40), (30, 3)):
            viewer = ranker.prepare(5, _history(rng, events))
            ranker.score_many([(viewer, _items(rng, count))] * int(rng.integers(1, 6)))
        ranker.score(0, History.empty(ACTIONS), Items([1, 2], [3, 4]))
        assert ranker.score_many([]) == []
        assert (ranker.stats().backend, ranker.stats().precision) == ("jit", precision)
        assert ranker.stats().compilations == programs


def test_eager_compiles_nothing(eager: dict[Precision, EagerRanker], rng: np.random.Generator) -> None:
    """The reference is never traced, in no precision, and reports so."""
    for precision, ranker in eager.items():
        ranker.score(5, _history(rng, 3), _items(rng, 2))
        assert ranker.stats().compilations == 0
        assert (ranker.stats().backend, ranker.stats().precision) == ("eager", precision)


def test_threads_get_their_own_scores(strong_ranker: Artifact) -> None:
    """Threads that compile and serve at once each get the scores that one alone gets, and compile once a shape."""
    rng = np.random.default_rng(3)
    ranker = JitRanker(strong_ranker, BackendOptions(candidate_buckets=(4,)))
    requests = [(ranker.prepare(i, _history(rng, 9)), _items(rng, 4)) for i in range(6)]
    found: list[list[Scores]] = [[] for _ in requests]
    start = threading.Barrier(len(requests))

    def serve(number: int) -> None:
        start.wait()
        found[number] = [ranker.score_prepared(*requests[number]) for _ in range(5)]

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request, scores in zip(requests, found, strict=True):
        assert len(scores) == 5
        for each in scores:
            _same_bits(each, ranker.score_prepared(*request))
    served = ranker.stats().compilations
    ranker.warm_up()
    assert 1 <= served == ranker.stats().compilations


@pytest.mark.parametrize("name", sorted(OWN))
def test_backends_keep_the_protocol(strong_ranker: Artifact, rng: np.random.Generator, name: str) -> None:
    """Every backend of the library prepares, scores, merges and reports in the same terms."""
    sizes = BackendOptions(candidate_buckets=(16,), most_new_events=0)
    ranker = make_backend(name, strong_ranker, sizes)
    assert isinstance(ranker, RankerBackend)
    assert ranker.config == strong_ranker.config
    assert len(ranker.action_names) == ACTIONS
    assert ranker.served_heads is None
    programs = ranker.warm_up()
    history, items = _history(rng, 4), _items(rng, 20)
    viewer = ranker.prepare(7, history)
    wanted = ranker.score(7, history, items)
    assert wanted.logits.shape == (20, ACTIONS)
    assert wanted.logits.dtype == wanted.probabilities.dtype == np.float32
    assert wanted.continuous is not None
    _same_bits(ranker.score_prepared(viewer, items), wanted)
    _same_bits(ranker.score_many([(viewer, items)])[0], wanted)
    assert len(ranker.score_prepared(viewer, _some(items, slice(0, 0))).logits) == 0
    stats = ranker.stats()
    assert (stats.backend, stats.precision, stats.compilations) == (name, "float32", programs)
    with pytest.raises(ValueError, match="knows 5 actions, the history has 3"):
        ranker.prepare(1, History.empty(3))


@pytest.mark.parametrize("name", sorted(OWN))
def test_retrieval_models_are_refused(small_retrieval: Artifact, name: str) -> None:
    """No backend takes the other model."""
    with pytest.raises(TypeError, match="wants a ranker artifact, found a retrieval one"):
        make_backend(name, small_retrieval)


def test_slot_positions_have_one_shape(strong_ranker: Artifact, rng: np.random.Generator) -> None:
    """Where a score depends on its slot, requests run in turns of the configured sizes, whatever is asked for."""
    config = strong_ranker.config
    assert isinstance(config, RankerConfig)
    artifact = attrs.evolve(strong_ranker, config=attrs.evolve(config, positions="slot", candidate_seq_len=16))
    sizes = attrs.evolve(SIZES, batch_buckets=(1,))
    plain, dense = JitRanker(artifact, sizes), EagerRanker(artifact, sizes)
    assert (plain.history_buckets, plain.candidate_buckets) == ((WINDOW,), (16,))
    history, items = _history(rng, 5), _items(rng, 18)
    found, wanted = (ranker.score(7, history, items).logits for ranker in (plain, dense))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tol.LOGIT_F32)
    again = plain.score(7, history, _some(items, slice(16, 18))).logits
    np.testing.assert_allclose(again, found[16:], rtol=0, atol=tol.LOGIT_F32)
    assert np.abs(plain.score(7, history, _some(items, [17, 16])).logits - again[::-1]).max() > 1e-3


def test_parameters_and_tables_are_held_in_their_precision(strong_ranker: Artifact) -> None:
    """Matrices and tables are float32, bfloat16 or int8 on the device; what is quantised stays so."""
    assert isinstance(strong_ranker.tables, EmbeddingTables)
    for dtype in ("float32", "bfloat16"):
        floats = device_tables(strong_ranker, dtype)
        assert isinstance(floats, EmbeddingTables)
        assert {table.dtype for table in floats} == {jnp.dtype(dtype)}
    assert isinstance(device_tables(strong_ranker, "int8"), DeviceTables)
    quantized = attrs.evolve(
        strong_ranker,
        tables=QuantizedTables.quantize(*strong_ranker.tables),
        params=quantize_params(strong_ranker.params),
    )
    for precision in PRECISIONS:
        held = device_tables(quantized, precision)
        assert isinstance(held, DeviceTables)
        assert held.item.rows.dtype == jnp.int8
        for entries in device_params(quantized.params, precision).values():
            for name, value in entries.items():
                assert isinstance(value, QuantizedMatrix) == (precision == "int8" and name in MATRICES)
                assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))


def test_quantised_artifacts_serve_alike(strong_ranker: Artifact, jitted: dict[Precision, JitRanker]) -> None:
    """An artifact quantised beforehand scores bit for bit as one quantised at load, and near it in float32."""
    rng = np.random.default_rng(8)
    assert isinstance(strong_ranker.tables, EmbeddingTables)
    quantized = attrs.evolve(
        strong_ranker,
        tables=QuantizedTables.quantize(*strong_ranker.tables),
        params=quantize_params(strong_ranker.params),
    )
    history, items = _history(rng, 9), _items(rng, 4)
    wanted = jitted["int8"].score(7, history, items)
    sizes = BackendOptions("int8", candidate_buckets=(16,))
    _same_bits(JitRanker(quantized, sizes).score(7, history, items), wanted)
    wide = JitRanker(quantized, attrs.evolve(sizes, precision="float32")).score(7, history, items)
    gap = np.abs(wide.logits - jitted["float32"].score(7, history, items).logits)
    assert 0 < gap.mean() <= 0.08


class _Compiled:
    """The jitted program at sizes worth a matrix unit, compiled.

    A product of a single row or of a few XLA runs in float32 on a CPU, whatever it is asked for.
    """

    ROWS = 30_011

    def __init__(self, precision: Precision) -> None:
        config = RankerConfig(TransformerConfig(64, 32, 4, 2, 1, 2.0, 0.125), ACTIONS, 63, 64)
        hashes = HashParams.random(3, user_vocab_size=50, item_vocab_size=self.ROWS, author_vocab_size=60)
        params = init_params(config, jax.random.PRNGKey(0))
        ranker = JitRanker(
            Artifact(config, params, EmbeddingTables.random(1, hashes, 64), hashes),
            BackendOptions(precision, candidate_buckets=(64,), batch_buckets=(2,)),
        )
        viewer, ids = ranker.prepare(1, ranker.history_of(63)), np.arange(1, 65, dtype=np.uint64)
        turns: list[Turn[PreparedUser]] = [Turn(0, viewer, Items(ids, ids), slice(0, 64))] * 2
        self.table_bytes = self.ROWS * 64 * 4
        self.program = ranker.lowered(turns).compile()
        self.text = str(self.program.as_text())

    @property
    def dots(self) -> list[tuple[str, str, str]]:
        """Output and operand dtypes of every product; names count within their computation."""
        found = []
        for computation in re.split(r"\n\n|\n(?=%|ENTRY)", self.text):
            types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", computation))
            dots = re.findall(r" = (\w+)\[[^\]]*\]\S* dot\(%([\w.-]+), %([\w.-]+)\)", computation)
            found += [(out, types[left], types[right]) for out, left, right in dots]
        assert len(found) == self.text.count(" dot(") >= 17
        return found


@pytest.fixture(scope="module")
def compiled() -> Callable[[Precision], _Compiled]:
    """Compiles once for each precision."""
    made: dict[Precision, _Compiled] = {}
    return lambda precision: (
        made.setdefault(precision, _Compiled(precision)) if precision not in made else made[precision]
    )


def test_bfloat16_products_stay_bfloat16(compiled: Callable[[Precision], _Compiled]) -> None:
    """Every compiled product takes bfloat16 and gives float32, in XLA's fused form where the build has it."""
    half = compiled("bfloat16")
    assert set(half.dots) == {("f32", "bf16", "bf16")}
    plain = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    if "ynn" not in str(plain.lower(jnp.ones((64, 64), jnp.bfloat16)).compile().as_text()):
        pytest.skip("this build of XLA fuses no bfloat16 product, not even a plain one")
    assert len(re.findall(r"ynn_fusion[\w.]* = ", half.text)) >= len(half.dots)


def test_int8_products_are_integer_or_exact(compiled: Callable[[Precision], _Compiled]) -> None:
    """Products with weights run in int8, or in bfloat16, which holds the same numbers; attention in float32."""
    dots = compiled("int8").dots
    weights = [dot for dot in dots if dot != ("f32", "f32", "f32")]
    assert set(weights) <= {("s32", "s8", "s8"), ("f32", "bf16", "bf16")}
    # Four products of attention, and the two tiny matrices that stay float32.
    assert len(dots) - len(weights) == 4 + 2


@pytest.mark.parametrize("precision", REDUCED)
def test_tables_are_not_widened(compiled: Callable[[Precision], _Compiled], precision: Precision) -> None:
    """The program holds no float32 copy of a bfloat16 or int8 table, not for a moment."""
    memory: Any = compiled(precision).program.memory_analysis()
    assert 0 < memory.temp_size_in_bytes < compiled(precision).table_bytes / 4


def test_bfloat16_tables_are_rounded_rows(strong_ranker: Artifact, jitted: dict[Precision, JitRanker]) -> None:
    """Rounding a table once gives the bits of rounding every row where it is read."""
    rng = np.random.default_rng(4)
    wide = JitRanker(strong_ranker, BackendOptions("bfloat16", candidate_buckets=(16,)))
    wide.tables = device_tables(strong_ranker, "float32")
    history, items = _history(rng, 9), _items(rng, 4)
    _same_bits(jitted["bfloat16"].score(7, history, items), wide.score(7, history, items))


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float16"},
        {"candidate_buckets": ()},
        {"history_buckets": (0,)},
        {"batch_buckets": (True,)},
        {"cache_bytes": -1},
        {"full_window": "never"},
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    """An option that makes no sense is refused by name."""
    with pytest.raises(ValueError, match=next(iter(options))):
        BackendOptions(**options)


def test_hit_rates() -> None:
    """A hit rate counts what could be extended, and is unknown before the first look-up."""
    assert CacheCounts(6, 2, 2, 0, 1, 10, 100).hit_rate == pytest.approx(0.8)
    assert CacheCounts(0, 0, 0, 0, 0, 0, 100).hit_rate is None
