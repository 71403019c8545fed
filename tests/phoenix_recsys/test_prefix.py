"""The prefix-shared program says what the plain forward says, whatever is padded, blocked, cached or extended."""

from __future__ import annotations

import re
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
from model_requests import random_history, random_items, rows_of

from phoenix_recsys import prefix
from phoenix_recsys.artifact import Artifact, save_artifact
from phoenix_recsys.backend import BackendOptions
from phoenix_recsys.backend_registry import load_ranker
from phoenix_recsys.config import Positions, RankerConfig, TransformerConfig
from phoenix_recsys.golden.model_files import ranker_config, read_meta
from phoenix_recsys.plain_backend import JitRanker
from phoenix_recsys.prefix_cache import PrefixCache
from phoenix_recsys.prefix_infer import EncodedUser, PrefixRanker
from phoenix_recsys.prefix_inputs import split_batch
from phoenix_recsys.prefix_weights import arrange
from phoenix_recsys.requests import History, Items
from phoenix_recsys.transforms import example_inputs, init_params

FIXTURE = Path(__file__).parent / "fixtures" / "may_ranker_tiny.npz"
ALL_POSITIONS: tuple[Positions, ...] = ("anchored", "right", "slot")
GROWING: tuple[Positions, ...] = ("anchored", "slot")
WINDOW, ACTIONS = 12, 5
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 5e-5}
SEED = st.integers(0, 2**16)
FEW = settings(max_examples=12, deadline=None)


def _artifact(strong_ranker: Artifact, positions: Positions) -> Artifact:
    assert isinstance(strong_ranker.config, RankerConfig)
    return attrs.evolve(strong_ranker, config=attrs.evolve(strong_ranker.config, positions=positions))


def _bits(user: EncodedUser, places: Any = slice(None)) -> list[Any]:
    """Keys, values and mask at some places."""
    encoded = user.prefix
    keys = [np.asarray(k)[..., places] for k in encoded.keys]
    return [*keys, *(np.asarray(v)[..., places, :] for v in encoded.values), np.asarray(encoded.valid)[:, places]]


@attrs.frozen(eq=False)
class Served:
    """The plain ranker and the prefix-shared one over the same artifact."""

    plain: JitRanker
    shared: PrefixRanker


@pytest.fixture(scope="module")
def served(strong_ranker: Artifact) -> dict[Positions, Served]:
    """Rankers under all positions, float32; the shared one with two buckets of each kind."""
    made = {}
    for positions in ALL_POSITIONS:
        artifact = _artifact(strong_ranker, positions)
        options = BackendOptions(
            candidate_buckets=(4, 16), history_buckets=(6, WINDOW), most_new_events=4, cache_bytes=0
        )
        shared = PrefixRanker(artifact, options)
        if positions == "anchored":
            shared.warm_up()  # the others compile what they are asked for
        made[positions] = Served(JitRanker(artifact, BackendOptions(candidate_buckets=(8,))), shared)
    return made


@pytest.fixture(scope="module")
def program(tiny: Any) -> Callable[..., Any]:
    """The library's whole program on the fixture model, compiled once per positions and block."""
    programs: dict[Any, Any] = {}
    meta = read_meta(FIXTURE, tiny.arrays)

    def run(batch: Any, embeddings: Any, positions: Positions, block: int | None) -> Any:
        key = (positions, block)
        if key not in programs:
            config = ranker_config(meta, "float32", positions)
            weights = arrange(tiny.params, config)
            programs[key] = jax.jit(
                lambda batch, embeddings: prefix.forward(weights, config, batch, embeddings, block=block)
            )
        return programs[key](batch, embeddings)

    return run


@pytest.mark.parametrize("positions", ALL_POSITIONS)
@FEW
@given(events=st.integers(0, 16), count=st.integers(0, 35), seed=SEED)
def test_scores_are_those_of_the_plain_forward(
    served: dict[Positions, Served], positions: Positions, events: int, count: int, seed: int
) -> None:
    """Any history and number of items score as in the plain ranker, whatever buckets they fall into."""
    rng = np.random.default_rng(seed)
    history, items = random_history(rng, events), random_items(rng, count)
    both = served[positions]
    wanted = both.plain.score(7, history, items)
    found = both.shared.score_prepared(both.shared.encode(7, history), items)
    np.testing.assert_allclose(found.logits, wanted.logits, **CLOSE)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, **CLOSE)
    np.testing.assert_allclose(np.asarray(found.continuous), np.asarray(wanted.continuous), **CLOSE)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("positions", ALL_POSITIONS)
@FEW
@given(seed=SEED)
def test_any_mask_scores_as_in_the_plain_forward(
    tiny: Any, program: Callable[..., Any], positions: Positions, block: int | None, seed: int
) -> None:
    """Padded, holed, empty and full histories and unknown users score as in the dense program, in blocks or not."""
    rng = np.random.default_rng(seed)
    history = np.array(tiny.batch.history_post_hashes)
    keep = rng.random(history.shape[:2]) < rng.choice([0.0, 0.3, 0.8, 1.0], (len(history), 1))
    history[..., 0] = np.where(keep, 3, 0)
    users = np.array(tiny.batch.user_hashes)
    users[:, 0] = rng.integers(0, 2, len(users))
    batch = tiny.batch._replace(history_post_hashes=history, user_hashes=users)
    wanted = tiny.score(batch, tiny.embeddings, positions)
    found = program(batch, tiny.embeddings, positions, block)
    alive = tiny.arrays["mask/candidate_valid"]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[alive], np.asarray(theirs)[alive], **CLOSE)
        assert np.isfinite(np.asarray(ours)).all()


def test_long_prefixes_are_blocked_without_a_trace(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of queries while encoding and of candidates while scoring, the last ones short, change nothing."""
    config = ranker_config(read_meta(FIXTURE, tiny.arrays), "float32", "slot")
    weights = arrange(tiny.params, config)
    monkeypatch.setattr(prefix, "BLOCK_WEIGHTS", 3 * (1 + 8))
    parts = jax.jit(lambda b, e: prefix.forward(weights, config, b, e))(tiny.batch, tiny.embeddings)
    alive = tiny.arrays["mask/candidate_valid"]
    for ours, theirs in zip(parts, tiny.score(tiny.batch, tiny.embeddings, "slot"), strict=True):
        np.testing.assert_allclose(np.asarray(ours)[alive], np.asarray(theirs)[alive], **CLOSE)


def test_the_published_logits_come_out(tiny: Any, program: Callable[..., Any]) -> None:
    """The fixture's logits, computed by the published program, are reproduced."""
    alive = tiny.arrays["mask/candidate_valid"]
    found = program(tiny.batch, tiny.embeddings, "slot", None)
    np.testing.assert_allclose(np.asarray(found.logits)[alive], tiny.arrays["out/f32/full/logits"][alive], **CLOSE)


@pytest.mark.parametrize("positions", ALL_POSITIONS)
def test_the_mask_travels_with_the_keys(
    strong_ranker: Artifact, served: dict[Positions, Served], positions: Positions
) -> None:
    """A history encoded in a short bucket and padded to the long one gives the same scores."""
    rng = np.random.default_rng(3)
    shared = served[positions].shared
    wide = PrefixRanker(_artifact(strong_ranker, positions), BackendOptions(candidate_buckets=(16,)))
    for events in (0, 1, 4, 6):
        history, items = random_history(rng, events), random_items(rng, 9)
        short, long = shared.encode(7, history), wide.encode(7, history)
        assert (short.bucket, long.bucket) == (6, WINDOW)
        np.testing.assert_allclose(
            shared.score_prepared(short, items).logits, wide.score_prepared(long, items).logits, **CLOSE
        )


@pytest.mark.parametrize("positions", GROWING)
@FEW
@given(before=st.integers(0, WINDOW - 1), new=st.integers(1, 4), seed=SEED)
def test_extending_equals_encoding(
    served: dict[Positions, Served], positions: Positions, before: int, new: int, seed: int
) -> None:
    """Events appended to a prefix give the keys, values, mask and scores of the longer history; or None if full."""
    rng = np.random.default_rng(seed)
    shared = served[positions].shared
    history, items = random_history(rng, before + new), random_items(rng, 5)
    start = shared.encode(7, rows_of(history, slice(0, before)))
    longer = shared.extend(start, rows_of(history, slice(before, None)))
    if before + new > WINDOW:
        assert longer is None
        return
    assert longer is not None
    whole = shared.encode(7, history)
    assert longer.events == whole.events == before + new
    assert longer.bucket == whole.bucket
    used = slice(0, 1 + before + new)
    for ours, theirs in zip(_bits(longer, used), _bits(whole, used), strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    np.testing.assert_array_equal(np.asarray(longer.prefix.valid), np.asarray(whole.prefix.valid))
    np.testing.assert_array_equal(np.asarray(longer.prefix.used), np.asarray(whole.prefix.used))
    np.testing.assert_allclose(
        shared.score_prepared(longer, items).logits, shared.score_prepared(whole, items).logits, **CLOSE
    )


def test_extending_leaves_earlier_tokens_bit_for_bit(served: dict[Positions, Served]) -> None:
    """The places that were taken before, and the prefix that was extended, are not touched."""
    rng = np.random.default_rng(1)
    shared = served["anchored"].shared
    start = shared.encode(7, random_history(rng, 8))
    before = _bits(start)
    longer = shared.extend(start, random_history(rng, 3))
    assert longer is not None
    for ours, theirs in zip(_bits(longer, slice(0, 9)), _bits(start, slice(0, 9)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(_bits(start), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert shared.extend(start, History.empty(ACTIONS)) is start
    assert shared.extend(start, random_history(rng, 5)) is None, "more than most_new_events"


def test_holes_survive_an_extension(tiny: Any) -> None:
    """Rows of a batch with holes grow each from its own last valid place."""
    config = ranker_config(read_meta(FIXTURE, tiny.arrays), "float32", "anchored")
    weights = arrange(tiny.params, config)
    users, events, candidates = split_batch(tiny.batch, tiny.embeddings)
    valid = np.ones((6, 8), bool)
    valid[1:4, 2], valid[3, 0], valid[4] = False, False, False
    valid[5, 6:] = False
    encode = jax.jit(lambda valid: prefix.encode(weights, config, users, events._replace(valid=valid)))
    whole = encode(valid)
    old = valid.copy()
    old[:, 5:] = False
    start = encode(old)
    late = jax.tree.map(lambda x: np.asarray(x)[:, 5:], events)._replace(valid=valid[:, 5:])
    grown = jax.jit(lambda start: prefix.extend(weights, config, start, late))(start)
    places = prefix.candidate_positions(config, 4)
    score = jax.jit(lambda encoded: prefix.score(weights, config, encoded, candidates, places))
    wanted, found = score(whole), score(grown)
    np.testing.assert_allclose(found.logits, wanted.logits, **CLOSE)


def test_right_positions_cannot_be_extended(tiny: Any, served: dict[Positions, Served]) -> None:
    """Where every event moves all the others, an extension is refused with what to do instead."""
    shared = served["right"].shared
    assert shared.extend(shared.encode(7, History.empty(ACTIONS)), random_history(np.random.default_rng(0), 1)) is None
    config = ranker_config(read_meta(FIXTURE, tiny.arrays), "float32", "right")
    weights = arrange(tiny.params, config)
    users, events, _ = split_batch(tiny.batch, tiny.embeddings)
    with pytest.raises(ValueError, match="encode the history again"):
        jax.eval_shape(lambda: prefix.extend(weights, config, prefix.encode(weights, config, users, events), events))


@pytest.mark.parametrize("positions", ["anchored", "right"])
@FEW
@given(seed=SEED)
def test_rows_are_bit_identical_in_any_company(
    served: dict[Positions, Served], positions: Positions, seed: int
) -> None:
    """A row scores the same to the last bit with other rows beside it in its bucket, in any order."""
    rng = np.random.default_rng(seed)
    shared = served[positions].shared
    user, items = shared.encode(7, random_history(rng, int(rng.integers(0, 13)))), random_items(rng, 16)
    wanted = shared.score_prepared(user, items)
    rows = rng.permutation(16)[: rng.integers(5, 17)]
    found = shared.score_prepared(user, rows_of(items, rows))
    np.testing.assert_array_equal(found.logits, wanted.logits[rows])
    np.testing.assert_array_equal(found.continuous, np.asarray(wanted.continuous)[rows])


@pytest.mark.parametrize("positions", ALL_POSITIONS)
@FEW
@given(events=st.integers(0, 14), seed=SEED)
def test_a_hit_equals_a_miss(served: dict[Positions, Served], positions: Positions, events: int, seed: int) -> None:
    """Scores through a cached prefix are those of a fresh one, bit for bit."""
    rng = np.random.default_rng(seed)
    shared = served[positions].shared
    cache: PrefixCache[EncodedUser] = PrefixCache(2**20)
    shared.cache = cache
    try:
        history, items = random_history(rng, events), random_items(rng, 6)
        missed = shared.prepare(7, history)
        hit = shared.prepare(7, rows_of(history, slice(None)))
    finally:
        shared.cache = None
    assert hit is missed
    assert (cache.stats().hits, cache.stats().misses) == (1, 1)
    fresh = shared.encode(7, history)
    for ours, theirs in zip(_bits(hit), _bits(fresh), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(shared.score_prepared(hit, items).logits, shared.score_prepared(fresh, items).logits)


def test_growing_histories_extend_until_the_window_is_full(served: dict[Positions, Served]) -> None:
    """A viewer who acts between requests is extended within a bucket and encoded again at its end."""
    rng = np.random.default_rng(4)
    both = served["anchored"]
    shared, history, items = both.shared, random_history(rng, 16), random_items(rng, 5)
    cache: PrefixCache[EncodedUser] = PrefixCache(2**20)
    shared.cache = cache
    programs = shared.compilations
    try:
        for events in range(17):
            so_far = rows_of(history, slice(0, events))
            found = shared.score_prepared(shared.prepare(7, so_far), items)
            np.testing.assert_allclose(found.logits, both.plain.score(7, so_far, items).logits, **CLOSE)
    finally:
        shared.cache = None
    stats = cache.stats()
    # Encoded at 0 events and at 13 to 16, where old events leave the window.
    assert (stats.hits, stats.extended, stats.misses) == (0, 12, 5)
    assert stats.entries == 5, "an extended prefix takes the place of the shorter one"
    assert shared.compilations == programs


def test_nothing_recompiles_while_serving(served: dict[Positions, Served], rng: np.random.Generator) -> None:
    """Requests of any size run the programs compiled at warm-up."""
    shared = served["anchored"].shared
    assert shared.compilations == 2 + 2 * 2 + 3
    for events, count in ((0, 0), (0, 1), (3, 4), (6, 5), (7, 16), (12, 40), (30, 3)):
        user = shared.encode(5, random_history(rng, events))
        shared.extend(user, random_history(rng, 2))
        scores = shared.score_prepared(user, random_items(rng, count))
        assert scores.logits.shape == (count, ACTIONS)
        assert scores.logits.dtype == np.float32
    bare = Items([1, 2], [3, 4])
    shared.score_prepared(shared.encode(0, History.empty(ACTIONS)), bare)
    assert shared.compilations == 9


INPUTS: dict[str, Callable[[Any], Any]] = {
    "item_ids": lambda x: x + 1,
    "author_ids": lambda x: x + 1,
    "actions": lambda x: 1 - x,
    "surfaces": lambda x: x + 1,
    "dwell_seconds": lambda x: x + 1,
}


@FEW
@given(name=st.sampled_from(sorted(INPUTS)), events=st.integers(1, 14), seed=SEED, data=st.data())
def test_every_input_is_in_the_key(
    served: dict[Positions, Served], name: str, events: int, seed: int, data: st.DataObject
) -> None:
    """Changing any input of any event that the model reads, or the viewer, changes the key; leaving all keeps it."""
    shared = served["anchored"].shared
    history = random_history(np.random.default_rng(seed), events)
    place = data.draw(st.integers(max(events - WINDOW, 0), events - 1))
    values = getattr(history, name).copy()
    values[place] = INPUTS[name](values[place])
    changed = attrs.evolve(history, **{name: values})
    key = shared.keys(7, history)[0]
    assert shared.keys(7, attrs.evolve(history))[0] == key
    assert shared.keys(7, changed)[0] != key
    assert shared.keys(8, history)[0] != key


def test_every_setting_is_in_the_key(strong_ranker: Artifact) -> None:
    """Parameters, precision, positions and bucket each make another key; a named version makes the same one."""
    history = random_history(np.random.default_rng(0), 5)

    def key(positions: Positions = "anchored", **options: Any) -> Any:
        version = options.pop("version", "one")
        return PrefixRanker(_artifact(strong_ranker, positions), BackendOptions(**options), version=version).keys(
            7, history
        )[0]

    assert key() == key()
    others = [key("right"), key("slot"), key(version="two"), key(precision="bfloat16"), key(history_buckets=(6,))]
    assert len({key(), *others}) == 6
    assert key(version=None) != key(version=None)


def _dots(hlo: str) -> list[tuple[str, str, str]]:
    """Output and operand dtypes of every dot of an HLO text; names count within their computation."""
    found = []
    for computation in re.split(r"\n\n|\n(?=%|ENTRY)", hlo):
        types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", computation))
        dots = re.findall(r" = (\w+)\[[^\]]*\]\S* dot\(%([\w.-]+), %([\w.-]+)\)", computation)
        found += [(out, types[left], types[right]) for out, left, right in dots]
    return found


@pytest.fixture(scope="module")
def compiled() -> dict[str, str]:
    """HLO of the bfloat16 program's parts, at sizes worth a matrix unit.

    A product of a single row or of a few XLA runs in float32 on a CPU, whatever it is asked for.
    """
    config = RankerConfig(TransformerConfig(64, 32, 4, 2, 2, 2.0, 0.125), ACTIONS, history_seq_len=63)
    batch = jax.tree.map(lambda x: np.zeros((2, *x.shape[1:]), x.dtype), example_inputs(config))

    def wider(tree: Any) -> Any:
        sized = {
            name: np.repeat(value, 63 if name.startswith("history_") else 64, axis=1)
            for name, value in tree._asdict().items()
            if value is not None and name.startswith(("history_", "candidate_"))
        }
        return tree._replace(**sized)

    users, events, candidates = split_batch(*(wider(tree) for tree in batch))
    events = events._replace(dwell_seconds=np.zeros((2, 63), np.float32))
    weights = arrange(init_params(config, jax.random.PRNGKey(0)), config, "bfloat16")
    encode = jax.jit(lambda w, u, e: prefix.encode(w, config, u, e)).lower(weights, users, events)
    score = jax.jit(lambda w, p, c: prefix.score(w, config, p, c, prefix.candidate_positions(config, 64)))
    encoded = jax.eval_shape(lambda w, u, e: prefix.encode(w, config, u, e), weights, users, events)
    parts = {"encode": encode, "score": score.lower(weights, encoded, candidates)}
    return {name: str(part.compile().as_text()) for name, part in parts.items()}


@pytest.mark.parametrize(("part", "products"), [("encode", 12), ("score", 15)])
def test_bfloat16_products_stay_bfloat16(compiled: dict[str, str], part: str, products: int) -> None:
    """Every compiled product takes bfloat16 and gives float32, none is a float32 one of converted operands."""
    dots = _dots(compiled[part])
    assert len(dots) == compiled[part].count(" dot(") >= products
    assert set(dots) == {("f32", "bf16", "bf16")}


@pytest.mark.parametrize("part", ["encode", "score"])
def test_bfloat16_products_are_fused(compiled: dict[str, str], part: str) -> None:
    """Every product runs in XLA's fused form, where the build has it."""
    plain = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    if "ynn" not in str(plain.lower(jnp.ones((64, 64), jnp.bfloat16)).compile().as_text()):
        pytest.skip("this build of XLA fuses no bfloat16 product, not even a plain one")
    hlo = compiled[part]
    assert len(re.findall(r"ynn_fusion[\w.]* = ", hlo)) >= hlo.count(" dot(")


def test_bfloat16_scores_are_close(strong_ranker: Artifact, served: dict[Positions, Served]) -> None:
    """Bfloat16 products give float32 scores near those of float32 ones, and half the bytes of keys and values."""
    rng = np.random.default_rng(2)
    artifact = _artifact(strong_ranker, "anchored")
    half = PrefixRanker(artifact, BackendOptions(precision="bfloat16", candidate_buckets=(16,), most_new_events=4))
    shared = served["anchored"].shared
    history, items = random_history(rng, 10), random_items(rng, 12)
    user, wide = half.encode(7, history), shared.encode(7, history)
    found, wanted = half.score_prepared(user, items), shared.score_prepared(wide, items)
    assert found.logits.dtype == np.float32
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=0.05)
    assert 1.8 < wide.nbytes / user.nbytes < 2.0


def test_january_models_serve(strong_ranker: Artifact, tmp_path: Any) -> None:
    """A January ranker loaded from disk scores as the plain one and has no continuous outputs."""
    assert isinstance(strong_ranker.config, RankerConfig)
    config = attrs.evolve(strong_ranker.config, release="january")
    artifact = attrs.evolve(strong_ranker, config=config, params=init_params(config, jax.random.PRNGKey(3)))
    save_artifact(tmp_path, artifact)
    rng = np.random.default_rng(2)
    history, items = random_history(rng, 10), random_items(rng, 3)
    shared = load_ranker(tmp_path, "kv_cache", BackendOptions(candidate_buckets=(4,)))
    found = shared.score_prepared(shared.prepare(7, history), items)
    assert found.continuous is None
    wanted = JitRanker(artifact, BackendOptions(candidate_buckets=(4,))).score(7, history, items)
    np.testing.assert_allclose(found.logits, wanted.logits, **CLOSE)


def test_unusable_settings_say_why(strong_ranker: Artifact, small_retrieval: Artifact, tiny: Any) -> None:
    """The other model, an unknown precision, wrong widths and missing rows are refused."""
    with pytest.raises(TypeError, match="wants a ranker"):
        PrefixRanker(small_retrieval)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, int8, found 'float16'"):
        BackendOptions(precision="float16")  # type: ignore[arg-type] # what a settings file may say
    with pytest.raises(ValueError, match="most_new_events must not be negative"):
        BackendOptions(most_new_events=-1)
    with pytest.raises(ValueError, match="knows 5 actions, the history has 3"):
        PrefixRanker(strong_ranker).encode(1, History.empty(3))
    with pytest.raises(ValueError, match="candidate post and author embeddings"):
        split_batch(tiny.batch, tiny.embeddings._replace(candidate_post_embeddings=None))
