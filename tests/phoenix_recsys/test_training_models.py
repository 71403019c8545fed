"""Training both models on a small world with a planted preference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_recsys.artifact import load_artifact
from phoenix_recsys.backend_registry import load_ranker
from phoenix_recsys.config import RankerConfig, RetrievalConfig, UserPooling
from phoenix_recsys.infer import Retrieval
from phoenix_recsys.plain_backend import JitRanker
from phoenix_recsys.requests import History, Items
from phoenix_recsys.training import (
    Catalogue,
    Interactions,
    ModelRecipe,
    RankerRecipe,
    Recipe,
    RetrievalRecipe,
    TrainingError,
    TrainingInterrupted,
    TrainingReport,
    train_phoenix,
)
from phoenix_recsys.training.batches import Batch
from phoenix_recsys.training.feeds import Feed, excluded_columns, exposure
from phoenix_recsys.training.forward import Candidates, ranker_logits, retrieval_items, retrieval_users
from phoenix_recsys.training.plan import TrainingPlan
from phoenix_recsys.training.ranker import RankerStage
from phoenix_recsys.training.retrieval import RetrievalStage
from phoenix_recsys.training.trainer import Trainable, fit

ITEMS, USERS, LENGTH = 24, 40, 14
NAMES = ("favorite", "share", "hide", "report")
SMALL = ModelRecipe(emb_size=16, num_layers=1, num_heads=2, key_size=8, history_len=8)
RECIPE = Recipe(
    name="small",
    model=SMALL,
    retrieval=RetrievalRecipe(epochs=8, batch_size=16, stride=6, warmup_steps=5, learning_rate=0.01, dropout=0.1),
    ranker=RankerRecipe(
        epochs=6, batch_size=16, stride=6, warmup_steps=5, learning_rate=0.01, dropout=0.1, negatives=5
    ),
)


def planted(seed: int = 0, impressions: bool = False) -> Interactions:
    """People of two camps; each likes the items of one half, drawn by an uneven popularity within it.

    With ``impressions`` they are shown items of both halves and leave those of the other alone.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, tuple[int, int, int, int]]] = []
    chance = np.repeat(np.linspace(3, 1, ITEMS // 2), 2)
    for user in range(1, USERS + 1):
        mine = np.arange(ITEMS) % 2 == user % 2
        pull = chance if impressions else chance * mine
        for step, item in enumerate(
            rng.choice(ITEMS, LENGTH, replace=False, p=pull / pull.sum())
            if impressions
            else rng.choice(ITEMS, 11, replace=False, p=pull / pull.sum())
        ):
            liked = bool(mine[item])
            hidden = int(not impressions and step % 5 == 4)
            rows.append(
                (user, int(item) + 1, step * 1000, (int(liked and not hidden), int(liked and step % 3 == 0), hidden, 0))
            )
    users, items, times, actions = zip(*rows, strict=True)
    ids = np.arange(1, ITEMS + 1)
    catalogue = Catalogue(ids, ids % 6 + 100, np.zeros(ITEMS, np.int64))
    return Interactions(users, items, times, np.array(actions, np.float32), NAMES, catalogue)


@attrs.frozen(eq=False)
class Trained:
    """A finished run and what it was given."""

    data: Interactions
    directory: Path
    report: TrainingReport
    ranker: JitRanker
    retrieval: Retrieval

    def history(self, user: int, count: int = 8) -> History:
        """The first events of a user."""
        rows = np.flatnonzero((self.data.user_ids == user) & (self.data.actions != 0).any(axis=1))[:count]
        items = self.data.item_ids[rows]
        return History(items, items % 6 + 100, self.data.actions[rows])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The small recipe on planted data without impressions."""
    out = tmp_path_factory.mktemp("trained")
    data = planted()
    report = train_phoenix(data, out, RECIPE, progress=False)
    ranker = load_ranker(out / "ranker", "jit")
    assert isinstance(ranker, JitRanker)
    return Trained(data, out, report, ranker, Retrieval.load(out / "retrieval"))


CATALOGUE = Items(np.arange(1, ITEMS + 1), np.arange(1, ITEMS + 1) % 6 + 100)


def camp_share(scores: np.ndarray[Any, Any], user: int, seen: np.ndarray[Any, Any], top: int = 3) -> float:
    """How many of the best unseen items are of the user's camp."""
    unseen = np.setdiff1d(np.arange(ITEMS), np.asarray(seen).astype(np.int64) - 1)
    best = unseen[np.argsort(-scores[unseen], kind="stable")[:top]]
    return float(np.mean(best % 2 == user % 2))


def test_losses_fall(trained: Trained) -> None:
    """Both stages end below where they began, and the record says so."""
    for stage in (trained.report.retrieval, trained.report.ranker):
        assert stage.losses[-1] < stage.losses[0] * 0.9
    record = json.loads((trained.directory / "training.json").read_text())
    assert record["retrieval"]["losses"] == [round(value, 6) for value in trained.report.retrieval.losses]
    assert record["recipe"]["name"] == "small"
    assert record["data"]["sha256"] == trained.data.fingerprint()
    assert record["ranker"]["negatives"] == "sampled"
    assert not (trained.directory / "checkpoints").exists()


def test_both_models_learn_the_planted_preference(trained: Trained) -> None:
    """The best unseen items are of the reader's camp, which popularity cannot know."""
    popularity = np.bincount(trained.data.item_ids - 1, minlength=ITEMS).astype(float)
    vectors = trained.retrieval.encode_items(CATALOGUE.ids, CATALOGUE.author_ids)
    found: dict[str, list[float]] = {"ranker": [], "retrieval": [], "popularity": []}
    for user in range(1, USERS + 1):
        history = trained.history(user, 6)
        scores = trained.ranker.score(user, history, CATALOGUE).logits[:, 0]
        found["ranker"].append(camp_share(scores, user, history.item_ids))
        found["retrieval"].append(
            camp_share(vectors @ trained.retrieval.encode_user(user, history), user, history.item_ids)
        )
        found["popularity"].append(camp_share(popularity, user, history.item_ids))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    assert means["ranker"] > 0.85, means
    assert means["retrieval"] > 0.85, means
    assert means["popularity"] < 0.7, means


def test_the_history_decides_for_somebody_unknown(trained: Trained) -> None:
    """For nobody known (id 0) the history of either camp turns the scores towards that camp's items."""
    odd, even = trained.history(1), trained.history(2)
    differences = (
        trained.ranker.score(0, odd, CATALOGUE).logits[:, 0] - trained.ranker.score(0, even, CATALOGUE).logits[:, 0]
    )
    camp = np.arange(ITEMS) % 2 == 1
    assert differences[camp].mean() > differences[~camp].mean() + 0.3


def test_artifacts_are_complete(trained: Trained) -> None:
    """They load, name heads and positions, hold a temperature, and serve only heads that had an example."""
    ranker = load_artifact(trained.directory / "ranker", kind="ranker")
    retrieval = load_artifact(trained.directory / "retrieval", kind="retrieval")
    assert isinstance(ranker.config, RankerConfig)
    assert isinstance(retrieval.config, RetrievalConfig)
    assert ranker.config.positions == "anchored"
    assert ranker.config.fprop_dtype == retrieval.config.fprop_dtype == "float32"
    assert retrieval.config.user_pooling == "last"
    assert ranker.config.action_names == NAMES
    assert ranker.served_heads == trained.report.served_heads == ("favorite", "share", "hide")
    assert 0.01 < np.exp(float(retrieval.params["~"]["log_temperature"])) < 1.0
    assert ranker.metadata["data_sha256"] == trained.data.fingerprint()


def test_rows_without_an_example_are_zero(trained: Trained) -> None:
    """An unknown id gets no random vector: rows that nothing trained are zero, all others are not."""
    tables, hashes = trained.ranker.tables, trained.ranker.hash_params
    used = hashes.hash_users(np.arange(1, USERS + 1)) - hashes.user_offset
    rest = np.setdiff1d(np.arange(len(tables.user)), used)
    assert len(rest)
    assert not np.asarray(tables.user)[rest].any()
    assert (np.abs(np.asarray(tables.user)[used]).sum(axis=-1) > 0).all()


def test_untrained_inputs_have_no_effect(trained: Trained) -> None:
    """Dwell time and post age were not trained on, so feeding them changes nothing."""
    history = trained.history(1)
    plain = trained.ranker.score(1, history, CATALOGUE).logits
    dwelt = attrs.evolve(history, dwell_seconds=np.full(len(history), 20.0))
    times = {"impression_ts": np.full(ITEMS, 90_000), "creation_ts": np.arange(1, ITEMS + 1)}
    aged = attrs.evolve(CATALOGUE, **times)
    np.testing.assert_array_equal(trained.ranker.score(1, dwelt, aged).logits, plain)


def test_the_same_seed_gives_the_same_files_even_after_ctrl_c(trained: Trained, tmp_path: Path) -> None:
    """A run stopped in its second stage and resumed writes the very bytes of an uninterrupted one."""
    stops = {("ranker", 3)}

    def report(stage: str, done: int, _total: int, _loss: float) -> None:
        if (stage, done) in stops:
            stops.remove((stage, done))
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted, match="ranker: stopped after step 3"):
        train_phoenix(trained.data, tmp_path, RECIPE, progress=report)
    with pytest.raises(TrainingError, match="belongs to another recipe or other data"):
        train_phoenix(trained.data, tmp_path, attrs.evolve(RECIPE, seed=5), progress=False)
    again = train_phoenix(trained.data, tmp_path, RECIPE, progress=report)
    assert again.retrieval.resumed_at == again.retrieval.steps
    assert again.ranker.resumed_at == 3
    for name in ("retrieval", "ranker"):
        for file in ("config.json", "model_params.npz", "embedding_tables.npz"):
            assert (tmp_path / name / file).read_bytes() == (trained.directory / name / file).read_bytes(), (name, file)


def stage_of(data: Interactions, recipe: Recipe = RECIPE) -> tuple[RetrievalStage, RankerStage, TrainingPlan]:
    """Both stages at their start."""
    plan = TrainingPlan.make(data, recipe)
    retrieval = plan.retrieval_stage()
    return retrieval, plan.ranker_stage(retrieval.initial()), plan


def still(recipe: Recipe = RECIPE, **retrieval: Any) -> Recipe:
    """A recipe without dropout, so that losses can be compared."""
    return attrs.evolve(
        recipe,
        retrieval=attrs.evolve(recipe.retrieval, dropout=0.0, **retrieval),
        ranker=attrs.evolve(recipe.ranker, dropout=0.0),
    )


@attrs.frozen(eq=False)
class FirstStep:
    """A stage without dropout, its first feed, and the loss and gradient of any feed at its start."""

    stage: RetrievalStage | RankerStage
    feed: Feed
    run: Callable[[Feed], tuple[jax.Array, Trainable]]

    @classmethod
    def of(cls, stage: RetrievalStage | RankerStage) -> FirstStep:
        """Compile the step."""
        start, program = stage.initial(), jax.jit(jax.value_and_grad(stage.loss))

        def run(feed: Feed) -> tuple[jax.Array, Trainable]:
            found: tuple[jax.Array, Trainable] = program(start, feed, stage.constants, jax.random.PRNGKey(1))
            return found

        return cls(stage, next(stage.feeds(0)), run)


@pytest.fixture(scope="module")
def first_steps() -> dict[str, FirstStep]:
    """Both stages on ratings, and the ranker on logged impressions."""
    retrieval, ranker, _ = stage_of(planted(), still())
    _, logged, _ = stage_of(planted(impressions=True), still())
    stages = (("retrieval", retrieval), ("ranker", ranker), ("ranker on impressions", logged))
    return {name: FirstStep.of(stage) for name, stage in stages}


def test_gradients_reach_the_trunk(first_steps: dict[str, FirstStep]) -> None:
    """Every matrix and norm of the trunk gets a gradient from the first step on, in both stages."""
    for name, step in first_steps.items():
        _, gradient = step.run(step.feed)
        trunk = {
            f"{module}/{name}": leaf
            for module, entries in gradient.params.items()
            for name, leaf in entries.items()
            if module.startswith("transformer")
        }
        assert len(trunk) == 11
        assert all(float(jnp.abs(leaf).max()) > 1e-7 for leaf in trunk.values()), name


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_all_prefixes_at_once_are_the_served_user_vectors(pooling: UserPooling) -> None:
    """Each target's vector equals the one the served model computes from its prefix alone."""
    stage, _, plan = stage_of(planted(), still(user_pooling=pooling))
    start = stage.initial()
    served = Retrieval(load_artifact_like(plan, start, "retrieval"))
    feed: Feed = next(stage.feeds(0))
    run = jax.jit(retrieval_users(stage.config).apply)
    found = run(start.params, None, start.tables, feed.hashes, feed.batch)
    for row, slot, user, history in prefixes(plan, feed.batch):
        np.testing.assert_allclose(found[row, slot], served.encode_user(user, history), atol=2e-5)
    vectors = jax.jit(retrieval_items(stage.config).apply)(start.params, None, start.tables, feed.hashes)
    np.testing.assert_allclose(vectors, served.encode_items(CATALOGUE.ids, CATALOGUE.author_ids), atol=1e-6)


def test_all_prefixes_at_once_are_the_served_ranker_scores() -> None:
    """Each candidate's logits equal the served model's for that prefix, with dwell time and post age in use."""
    data = planted()
    rng = np.random.default_rng(0)
    catalogue = attrs.evolve(data.catalogue, created_at=np.arange(ITEMS) * 3_600_000 + 1000)
    late = data.times + 400_000_000
    data = attrs.evolve(data, catalogue=catalogue, times=late, dwell_seconds=rng.random(len(data)) * 40)
    _, stage, plan = stage_of(data)
    start = shaken(stage.initial())
    served = JitRanker(load_artifact_like(plan, start, "ranker"))
    feed = next(stage.feeds(0))
    batch = feed.batch
    candidates = Candidates(
        *(jnp.asarray(part) for part in (batch.target_item, batch.target_prefix, batch.target_seconds))
    )
    found = jax.jit(ranker_logits(stage.config).apply)(start.params, None, start.tables, feed.hashes, batch, candidates)
    compared = 0
    for row, slot, user, history in prefixes(plan, batch):
        item = int(batch.target_item[row, slot])
        seconds = [int(batch.target_seconds[row, slot])]
        one = Items([item + 1], [(item + 1) % 6 + 100], impression_ts=seconds, creation_ts=[item * 3600 + 1])
        np.testing.assert_allclose(found[row, slot], served.score(user, history, one).logits[0], atol=2e-4)
        compared += 1
    assert compared > 12


def shaken(start: Trainable) -> Trainable:
    """Random numbers in place of whatever starts at zero or small, so that every part of a model shows."""
    leaves, structure = jax.tree.flatten(start.params)
    keys = jax.random.split(jax.random.PRNGKey(3), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return Trainable(jax.tree.unflatten(structure, moved), start.tables)


def load_artifact_like(plan: TrainingPlan, start: Trainable, kind: str) -> Any:
    """An artifact of untrained parameters, without a file."""
    from phoenix_recsys.artifact import Artifact

    config = plan.ranker_config if kind == "ranker" else plan.retrieval_config
    return Artifact(config, start.params, start.tables, plan.hash_params)


def prefixes(plan: TrainingPlan, batch: Batch) -> Iterator[tuple[int, int, int, History]]:
    """Row, slot, user id and the plain history of every second filled target slot of the first rows."""
    sequences = plan.sequences
    for row in range(6):
        for slot in np.flatnonzero(batch.target_weight[row] > 0)[::2]:
            count = int(batch.target_prefix[row, slot])
            items = np.asarray(batch.token_item)[row, :count] + 1
            actions = sequences.patterns[batch.token_pattern[row, :count]]
            dwell = None if batch.token_dwell is None else np.asarray(batch.token_dwell)[row, :count]
            history = History(items, items % 6 + 100, actions, dwell_seconds=dwell)
            yield row, int(slot), int(sequences.user_ids[batch.user[row]]), history


def garbled(batch: Batch, rng: np.random.Generator) -> Batch:
    """Other content at every padded token and empty slot."""
    token = np.arange(batch.token_item.shape[1]) >= np.asarray(batch.token_count)[:, None]
    slot = np.asarray(batch.target_weight) == 0

    def other(values: Any, where: Any, high: int) -> Any:
        return np.where(where, rng.integers(0, high, np.shape(values)), values).astype(np.int32)

    return batch._replace(
        token_item=other(batch.token_item, token, ITEMS),
        token_pattern=other(batch.token_pattern, token, 3),
        target_item=other(batch.target_item, slot, ITEMS),
        target_prefix=other(batch.target_prefix, slot, 3),
        target_seen=other(batch.target_seen, slot, 3),
        target_seconds=other(batch.target_seconds, slot, 50),
        target_actions=np.where(slot[..., None], 1.0, batch.target_actions).astype(np.float32),
    )


def test_padding_never_changes_a_loss(first_steps: dict[str, FirstStep]) -> None:
    """Whatever stands at padded tokens and in empty slots, losses and gradients stay as they are."""
    rng = np.random.default_rng(0)
    for name, step in first_steps.items():
        assert (np.asarray(step.feed.batch.target_weight) == 0).any()
        loss, gradient = step.run(step.feed)
        for _ in range(5):
            again, other = step.run(step.feed._replace(batch=garbled(step.feed.batch, rng)))
            assert float(again) == pytest.approx(float(loss), rel=1e-5), name
            for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(one, two, atol=2e-5)


def test_a_target_is_never_trained_against_items_of_its_history() -> None:
    """Seen items are no columns of the softmax and are never drawn as negatives."""
    data = planted()
    retrieval, ranker, plan = stage_of(data)
    feed = next(ranker.feeds(0))
    groups = jax.jit(ranker.groups)(feed, ranker.constants, jax.random.PRNGKey(0))
    for row in range(len(feed.batch.user)):
        user = plan.sequences.user_ids[feed.batch.user[row]]
        for slot in np.flatnonzero(feed.batch.target_weight[row] > 0):
            second = int(feed.batch.target_seconds[row, slot])
            past = set(data.item_ids[(data.user_ids == user) & (data.times < second * 1000)] - 1)
            drawn = np.asarray(groups.item[row, slot, 1:])[np.asarray(groups.valid[row, slot, 1:])]
            assert not past & set(drawn.tolist())
            assert int(feed.batch.target_item[row, slot]) not in drawn
            assert len(set(drawn.tolist())) == len(drawn)
    assert retrieval.constants.first_seen is not None


def test_a_large_catalogue_is_sampled_with_the_right_expectations() -> None:
    """Above the limit a step holds only the items it mentions, renumbered, with the expected counts of its columns."""
    data = planted()
    recipe = attrs.evolve(RECIPE, retrieval=attrs.evolve(RECIPE.retrieval, full_softmax_limit=5, uniform_negatives=7))
    stage, ranker, plan = stage_of(data, recipe)
    assert stage.constants.first_seen is None
    feed, whole = next(stage.feeds(0)), next(plan.retrieval_stage().feeder.sampler.epoch(0))
    rows = np.asarray(feed.hashes.item)
    np.testing.assert_array_equal(rows[feed.batch.token_item], np.asarray(plan.hashes.item)[whole.token_item])
    np.testing.assert_array_equal(rows[feed.batch.target_item], np.asarray(plan.hashes.item)[whole.target_item])
    filled = np.asarray(whole.target_weight) > 0
    share = np.bincount(data.item_ids - 1, minlength=ITEMS) / len(data)
    wanted = np.log(filled.sum() * share[whole.target_item] + 7 / ITEMS)
    columns = filled.size
    np.testing.assert_allclose(np.asarray(feed.log_expected)[:columns], wanted.ravel(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(feed.column_valid)[:columns], filled.ravel())
    assert len(feed.columns) == columns + 7
    assert len(next(ranker.feeds(0)).columns) == 7


def test_the_sampled_loss_estimates_the_full_one() -> None:
    """Averaged over many draws of columns, the corrected loss of a batch is near the softmax over everything."""
    data = planted()
    # Windows as long as the longest history, so that both sides know the same items as seen.
    recipe = attrs.evolve(still(temperature=1.0), model=attrs.evolve(SMALL, history_len=12))
    full = TrainingPlan.make(data, recipe).retrieval_stage()
    rare = attrs.evolve(recipe.retrieval, full_softmax_limit=5, uniform_negatives=40)
    sampled = TrainingPlan.make(data, attrs.evolve(recipe, retrieval=rare)).retrieval_stage()
    start, key = full.initial(), jax.random.PRNGKey(0)
    exact = jax.jit(full.loss)(start, next(full.feeds(0)), full.constants, key)
    run = jax.jit(sampled.loss)
    estimates = []
    batch = next(sampled.feeder.sampler.epoch(0))
    for seed in range(20):
        feed = sampled.feeder._local(batch, np.random.default_rng(seed))
        estimates.append(float(run(start, feed, sampled.constants, key)))
    assert np.mean(estimates) == pytest.approx(float(exact), abs=0.02)


def test_sampled_training_learns_too() -> None:
    """In-batch softmax with log-Q correction brings the loss down, and the ranker can draw from its columns."""
    few = attrs.evolve(RECIPE.retrieval, full_softmax_limit=5, uniform_negatives=8, epochs=3)
    retrieval, ranker, _ = stage_of(planted(), attrs.evolve(RECIPE, retrieval=few))
    found = fit(retrieval, seed=0)
    assert found.losses[-1] < found.losses[0]
    start, feed = ranker.initial(), next(ranker.feeds(0))
    assert np.isfinite(float(jax.jit(ranker.loss)(start, feed, ranker.constants, jax.random.PRNGKey(0))))


def test_exposure_and_birth_follow_the_target_s_time() -> None:
    """A column's exposure is that of the target's period, and items made later are no columns."""
    data = planted()
    young = attrs.evolve(data.catalogue, created_at=np.where(np.arange(ITEMS) < 4, 6_000, 0))
    timed = attrs.evolve(RECIPE.retrieval, exposure_hours=2 / 3600, hide_unborn=True)
    stage, _, _ = stage_of(attrs.evolve(data, catalogue=young), attrs.evolve(RECIPE, retrieval=timed))
    feed = next(stage.feeds(0))
    columns, own = exposure(feed)
    excluded = np.asarray(excluded_columns(feed, stage.constants.first_seen, hide_unborn=True))
    target = np.asarray(feed.batch.target_item)
    np.testing.assert_allclose(np.take_along_axis(np.asarray(columns), target[..., None], 2)[..., 0], own)
    for row, slot in np.argwhere(np.asarray(feed.batch.target_weight) > 0)[:40]:
        second = int(feed.batch.target_seconds[row, slot])
        period = (data.times // 2000) == second // 2
        shown = np.bincount(data.item_ids[period] - 1, minlength=ITEMS)
        np.testing.assert_allclose(columns[row, slot], np.log(shown + 0.1), rtol=1e-5)
        assert excluded[row, slot, :4].all() or second >= 6


def test_logged_impressions_are_the_negatives(tmp_path: Path) -> None:
    """Where items were shown and left alone, those rows train the ranker, and it learns what is left alone."""
    data = planted(impressions=True)
    assert not (data.actions != 0).any(axis=1).all()
    recipe = attrs.evolve(
        RECIPE, ranker=attrs.evolve(RECIPE.ranker, targets_per_window=8, distillation_weight=0.3, use_post_age=True)
    )
    report = train_phoenix(data, tmp_path, recipe, progress=False)
    assert report.record["ranker"]["negatives"] == "logged"
    ranker = load_ranker(tmp_path / "ranker", "jit")
    margin = []
    for user in (1, 2, 3, 4):
        rows = np.flatnonzero((data.user_ids == user) & (data.actions != 0).any(axis=1))[:6]
        history = History(data.item_ids[rows], data.item_ids[rows] % 6 + 100, data.actions[rows])
        logits = ranker.score(user, history, CATALOGUE).logits[:, 0]
        mine = np.arange(ITEMS) % 2 == user % 2
        margin.append(logits[mine].mean() - logits[~mine].mean())
    assert min(margin) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive_head": "favourite"}, "did you mean 'favorite'"),
        ({"positive_head": "report"}, "no example of 'report'"),
        (
            {"retrieval": RetrievalRecipe(stride=4, target_weights={"likes": 1.0})},
            "target_weights names the action 'likes'",
        ),
        ({"retrieval": RetrievalRecipe(stride=4, target_weights={"report": 1.0})}, "no event counts as a target"),
        ({"ranker": RankerRecipe(stride=4, head_weights={"xyz": 1.0})}, "head_weights names the action 'xyz'"),
        ({"ranker": RankerRecipe(stride=4, impressions="logged")}, "every event has an action"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The message names the setting, and nothing is written."""
    with pytest.raises(TrainingError, match=message):
        train_phoenix(planted(), tmp_path / "out", attrs.evolve(RECIPE, **change), progress=False)
    assert not (tmp_path / "out").exists()
