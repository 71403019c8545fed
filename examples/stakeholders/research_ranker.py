"""A Phoenix ranker trained on the made-up platform's events: what it takes the probabilities to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt
from research_content import ACTIONS
from research_twitter import TOPICS, Platform

Float64 = npt.NDArray[np.float64]

HISTORY: Final = 32
SHOWN: Final = 4
"""Posts of each topic that every user is asked about."""


TOGETHER: Final = 64
"""Users in a call."""


@attrs.frozen(eq=False)
class Ranked:
    """What the ranker said after the last event.

    Attributes:
        chances: mean predicted probability, float64 [users, topics, actions]; 0 for an action that never happened.
        epochs: passes over the events.
        loss: of the last epoch, nats an event, summed over actions.
        seconds: of training.
    """

    chances: Float64
    epochs: int
    loss: float
    seconds: float


def train_ranker(
    world: Platform,
    *,
    seed: int = 0,
    epochs: int = 8,
    width: int = 32,
    rate: float = 2e-3,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> Ranked:
    """Train on every event, those without any action as the negatives, and ask about posts nobody has met yet.

    Only the sigmoid cross-entropies are trained, all actions alike: the predictions are meant as probabilities, not as
    an order. There is no retrieval stage; a new post is known by its author, who writes on one topic.

    The defaults are the best of six settings that were tried on two platforms (peak rates .002 and .004, 4 and 8
    epochs, weight decay .2 and .01), which left 49 to 67 % of the non-zero cells within two standard errors.

    Args:
        world: the events.
        seed: of parameters and batches.
        epochs: passes over the events.
        width: of the model.
        rate: peak of the learning rate.
        progress: called after each step with stage, step, steps and loss.
    """
    from phoenix_recsys import Artifact, History, Items, make_backend
    from phoenix_recsys.backend_registry import DEFAULT
    from phoenix_recsys.training import Catalogue, Interactions, ModelRecipe, RankerRecipe, Recipe, RetrievalRecipe
    from phoenix_recsys.training.plan import TrainingPlan
    from phoenix_recsys.training.trainer import fit

    authors = world.post_author + 1
    posts = np.arange(1, len(authors) + 1)
    # One unmet post an author, to be asked about.
    unmet = np.arange(len(posts) + 1, len(posts) + 1 + authors.max())
    catalogue = Catalogue(
        np.concatenate([posts, unmet]),
        np.concatenate([authors, np.arange(1, authors.max() + 1)]),
        np.zeros(len(posts) + len(unmet), np.int64),
    )
    data = Interactions(
        world.user + 1, posts[world.post], world.time, world.actions.astype(np.float32), ACTIONS, catalogue
    )
    recipe = Recipe(
        name="made-up platform",
        seed=seed,
        model=ModelRecipe(emb_size=width, num_layers=1, num_heads=2, key_size=16, history_len=HISTORY),
        retrieval=RetrievalRecipe(uniform_negatives=1),
        ranker=RankerRecipe(
            epochs=epochs,
            batch_size=64,
            targets_per_window=16,
            learning_rate=rate,
            weight_decay=0.01,
            dropout=0.0,
            item_dropout=0.9,
            user_dropout=0.1,
            other_head_weight=1.0,
            listwise_weight=0.0,
            distillation_weight=0.0,
        ),
    )
    plan = TrainingPlan.make(data, recipe)
    stage = plan.ranker_stage(plan.retrieval_stage().initial())
    found = fit(stage, seed=seed, progress=progress)
    trained = found.trainable
    artifact = Artifact(
        plan.ranker_config, trained.params, plan.finished(trained.tables), plan.hash_params, plan.served_heads
    )
    ranker = make_backend(DEFAULT, artifact)
    topic_of = np.full(authors.max(), -1, np.int64)
    topic_of[world.post_author] = world.post_topic
    rng = np.random.default_rng(seed)
    asked = np.concatenate([rng.choice(np.flatnonzero(topic_of == topic), SHOWN) for topic in range(len(TOPICS))])
    items = Items(unmet[asked], asked + 1)
    acted = np.flatnonzero(world.actions.any(axis=1))
    served = np.isin(ACTIONS, plan.served_heads)
    chances = np.zeros((len(world.archetype), len(TOPICS), len(ACTIONS)))
    order = acted[np.argsort(world.user[acted], kind="stable")]
    starts = np.searchsorted(world.user[order], np.arange(len(world.archetype) + 1))
    for first in range(0, len(world.archetype), TOGETHER):
        users = range(first, min(first + TOGETHER, len(world.archetype)))
        requests = []
        for user in users:
            mine = order[starts[user] : starts[user + 1]][-HISTORY:]
            history = History(posts[world.post[mine]], authors[world.post[mine]], world.actions[mine])
            requests.append((ranker.prepare(user + 1, history), items))
        for user, said in zip(users, ranker.score_many(requests), strict=True):
            chances[user] = said.probabilities.reshape(len(TOPICS), SHOWN, -1).mean(axis=1) * served
    return Ranked(chances, epochs, found.losses[-1], found.seconds)
