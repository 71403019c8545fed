"""What a score may depend on: user, history and the candidate itself, and nothing at padded places."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_recsys.inputs import Embeddings, RankerBatch

ROWS = st.integers(0, 5)
SEED = st.integers(0, 2**16)
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 3e-5}
CANDIDATE_BATCH = tuple(name for name in RankerBatch._fields if name.startswith("candidate_"))
CANDIDATE_EMBEDDINGS = tuple(name for name in Embeddings._fields if name.startswith("candidate_"))
FEW = settings(max_examples=25, deadline=None)


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[row : row + 1], tree)


def _candidates(batch: RankerBatch, embeddings: Embeddings, change: Any) -> tuple[RankerBatch, Embeddings]:
    """Apply ``change`` to every candidate array [1, C, …]."""
    new_batch = batch._replace(**{name: change(getattr(batch, name)) for name in CANDIDATE_BATCH})
    return new_batch, embeddings._replace(**{name: change(getattr(embeddings, name)) for name in CANDIDATE_EMBEDDINGS})


def _valid(batch: RankerBatch) -> Any:
    return np.asarray(batch.candidate_post_hashes)[0, :, 0] != 0


@pytest.mark.parametrize("attention", ["dense", "split"])
@FEW
@given(row=ROWS, seed=SEED)
def test_other_candidates_do_not_matter(tiny: Any, attention: str, row: int, seed: int) -> None:
    """Reordering, replacing, doubling and padding the other candidates leaves each score as it was."""
    rng = np.random.default_rng(seed)
    batch, embeddings = _row(tiny.batch, row), _row(tiny.embeddings, row)
    wanted = np.asarray(tiny.score(batch, embeddings, attention=attention).logits)[0]
    # Eight places filled in any order from the four candidates; some padded.
    places = rng.integers(0, 4, 8)
    padded = rng.random(8) < 0.3
    shuffled, looked_up = _candidates(batch, embeddings, lambda x: x[:, places])
    hashes = np.array(shuffled.candidate_post_hashes)
    hashes[0, padded] = 0
    shuffled = shuffled._replace(candidate_post_hashes=hashes)
    found = np.asarray(tiny.score(shuffled, looked_up, attention=attention).logits)[0]
    alive = _valid(shuffled)
    np.testing.assert_allclose(found[alive], wanted[places][alive], **CLOSE)


@FEW
@given(row=ROWS)
def test_a_lone_candidate_scores_as_in_company(tiny: Any, row: int) -> None:
    """Each candidate alone gets the score it has among the others."""
    batch, embeddings = _row(tiny.batch, row), _row(tiny.embeddings, row)
    wanted = np.asarray(tiny.score(batch, embeddings).logits)[0]
    for place in np.flatnonzero(_valid(batch)):
        alone = _candidates(batch, embeddings, lambda x, p=place: x[:, p : p + 1])
        np.testing.assert_allclose(np.asarray(tiny.score(*alone).logits)[0, 0], wanted[place], **CLOSE)


@FEW
@given(row=ROWS, count=st.integers(0, 8), place=st.integers(0, 3))
def test_anchored_equals_slot_for_a_lone_candidate(tiny: Any, row: int, count: int, place: int) -> None:
    """A candidate alone in slot 0 behind a history of any length scores the same under both positions."""
    batch, embeddings = _row(tiny.batch, row), _row(tiny.embeddings, row)
    hashes = np.full_like(batch.history_post_hashes, 3)
    hashes[:, count:] = 0
    batch = batch._replace(history_post_hashes=hashes)
    alone = _candidates(batch, embeddings, lambda x: x[:, place : place + 1])
    alone[0].candidate_post_hashes[...] = 9
    anchored, slot = (np.asarray(tiny.score(*alone, positions).logits) for positions in ("anchored", "slot"))
    np.testing.assert_allclose(anchored, slot, **CLOSE)


@pytest.mark.parametrize("positions", ["anchored", "right", "slot"])
@FEW
@given(row=ROWS, seed=SEED)
def test_padded_places_never_matter(tiny: Any, positions: str, row: int, seed: int) -> None:
    """Whatever stands at padded places, valid candidates score the same."""
    rng = np.random.default_rng(seed)
    batch, embeddings = _row(tiny.batch, row), _row(tiny.embeddings, row)
    wanted = np.asarray(tiny.score(batch, embeddings, positions).logits)
    user = np.asarray(batch.user_hashes)[:, :1, None] == 0
    history = np.asarray(batch.history_post_hashes)[..., 0] == 0
    candidates = np.asarray(batch.candidate_post_hashes)[..., 0] == 0

    def noise(values: Any, padded: Any) -> Any:
        values = np.asarray(values)
        padded = padded.reshape(padded.shape + (1,) * (values.ndim - padded.ndim))
        random = rng.integers(1, 9, values.shape) if values.dtype.kind == "i" else rng.normal(0, 5, values.shape)
        return np.where(padded, random, values).astype(values.dtype)

    def noisy(tree: Any, names: tuple[str, ...], padded: Any) -> Any:
        return tree._replace(**{name: noise(getattr(tree, name), padded) for name in names})

    batch = noisy(batch, tuple(n for n in CANDIDATE_BATCH if n != "candidate_post_hashes"), candidates)
    batch = noisy(
        batch,
        (
            "history_author_hashes",
            "history_actions",
            "history_product_surface",
            "history_continuous_actions",
        ),
        history,
    )
    embeddings = noisy(embeddings, CANDIDATE_EMBEDDINGS, candidates)
    embeddings = noisy(embeddings, ("history_post_embeddings", "history_author_embeddings"), history)
    embeddings = noisy(embeddings, ("user_embeddings",), user)
    found = np.asarray(tiny.score(batch, embeddings, positions).logits)
    alive = _valid(batch)
    np.testing.assert_allclose(found[0, alive], wanted[0, alive], rtol=0, atol=1e-6)


@pytest.mark.parametrize("positions", ["anchored", "right"])
def test_the_padded_history_length_does_not_matter(tiny: Any, positions: str) -> None:
    """A history padded to 8 or to 11 places scores the same while the configured length stays."""
    batch, embeddings = tiny.batch, tiny.embeddings

    def longer(x: Any) -> Any:
        return np.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2), constant_values=0)

    def history(tree: Any) -> Any:
        names = [name for name in tree._fields if name.startswith("history_")]
        return tree._replace(**{name: longer(np.asarray(getattr(tree, name))) for name in names})

    short = tiny.score(batch, embeddings, positions, history_seq_len=20)
    long = tiny.score(history(batch), history(embeddings), positions, history_seq_len=20)
    alive = tiny.arrays["mask/candidate_valid"]
    np.testing.assert_allclose(np.asarray(short.logits)[alive], np.asarray(long.logits)[alive], **CLOSE)


def test_slot_positions_reproduce_the_fixture(tiny: Any) -> None:
    """The published program's logits come out at published positions, and only there."""
    alive = tiny.arrays["mask/candidate_valid"]
    wanted = tiny.arrays["out/f32/full/logits"]
    slot = np.asarray(tiny.score(tiny.batch, tiny.embeddings, "slot").logits)
    np.testing.assert_allclose(slot[alive], wanted[alive], **CLOSE)
    anchored = np.asarray(tiny.score(tiny.batch, tiny.embeddings, "anchored").logits)
    assert np.abs(anchored - wanted)[alive].max() > 0.1


@pytest.mark.parametrize("positions", ["anchored", "right", "slot"])
def test_split_attention_equals_dense(tiny: Any, positions: str) -> None:
    """The program that never computes what the mask hides gives the published program's values."""
    alive = tiny.arrays["mask/candidate_valid"]
    dense = tiny.score(tiny.batch, tiny.embeddings, positions)
    split = tiny.score(tiny.batch, tiny.embeddings, positions, attention="split")
    for ours, wanted in zip(split, dense, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[alive], np.asarray(wanted)[alive], **CLOSE)
