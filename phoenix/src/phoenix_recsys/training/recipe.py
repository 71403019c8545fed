"""Hyper-parameters of a training run, with the two presets that were tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from phoenix_recsys.config import UserPooling
from phoenix_recsys.training.errors import TrainingError

Impressions = Literal["auto", "logged", "sampled"]


@attrs.frozen(kw_only=True)
class ModelRecipe:
    """Shape of both models.

    Attributes:
        emb_size: width D.
        num_layers: decoder layers.
        num_heads: query heads, and as many key/value heads.
        key_size: width of a head.
        widening_factor: of the feed-forward layers, before the two-thirds rule.
        attn_output_multiplier: factor on attention logits.
        history_len: tokens S that serving may feed; also where the ranker's candidates stand.
        candidate_seq_len: candidates per call recorded for published-style runners; scores do not depend on it.
        hashes: embedding rows per user, item and author.
        user_rows, item_rows, author_rows: rows of the tables; None takes the power of two above twice the ids.
    """

    emb_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    key_size: int = 32
    widening_factor: float = 2.0
    attn_output_multiplier: float = 0.125
    history_len: int = 32
    candidate_seq_len: int = 32
    hashes: int = 2
    user_rows: int | None = None
    item_rows: int | None = None
    author_rows: int | None = None


@attrs.frozen(kw_only=True)
class StageRecipe:
    """What both stages have in common.

    Attributes:
        epochs: passes over the targets.
        batch_size: windows per step.
        stride: largest difference of prefix lengths in a window; targets read at least history_len − stride tokens
            where the user has them.
        learning_rate: peak of the schedule.
        warmup_steps: linear rise to the peak; a cosine then falls to ``final_rate`` of it.
        final_rate: share of the peak at the end.
        weight_decay: decoupled, on matrices and tables only (Loshchilov & Hutter 2019).
        beta2: second-moment decay of Adam.
        clip_norm: global gradient norm.
        dropout: on input tokens and on branches of the trunk.
        user_dropout: share of windows without their user token, so that unknown people are served better.
        item_dropout: share of tokens and candidates without their item rows, so that new items lean on their author.
    """

    epochs: int = 12
    batch_size: int = 64
    stride: int = 16
    learning_rate: float = 4e-3
    warmup_steps: int = 50
    final_rate: float = 0.02
    weight_decay: float = 0.2
    beta2: float = 0.98
    clip_norm: float = 1.0
    dropout: float = 0.2
    user_dropout: float = 0.0
    item_dropout: float = 0.0


@attrs.frozen(kw_only=True)
class RetrievalRecipe(StageRecipe):
    """Two-tower training.

    Attributes:
        target_weights: how much an event counts as something to retrieve, by action; of several actions the largest.
            None counts every event with any action as 1.
        user_pooling: ``last`` reads the newest token, ``mean`` averages them as published.
        temperature: start of the learned softmax temperature.
        full_softmax_limit: up to this many items every item is a column of the softmax; above, columns are the batch's
            targets and some uniform draws, with log-Q correction.
        uniform_negatives: uniform draws per step of the sampled softmax.
        cold_items: whether items without a training event are columns of the full softmax, and so learnt to be
            unlikely.
        hide_unborn: leave items made after the target's time out of its softmax.
        exposure_hours: length of the periods over which exposure is counted; 0 for none. The log of an item's exposure
            (events with it, by anybody, in the period of the target) is added to its logit in training and not when
            serving. Vectors then learn who picks what out of what is shown, not what is shown when; otherwise, where
            items come and go within hours, they learn little but the time of day an item belongs to.
    """

    target_weights: Mapping[str, float] | None = None
    user_pooling: UserPooling = "last"
    temperature: float = 0.07
    full_softmax_limit: int = 20_000
    uniform_negatives: int = 512
    cold_items: bool = True
    hide_unborn: bool = False
    exposure_hours: float = 0.0


@attrs.frozen(kw_only=True)
class RankerRecipe(StageRecipe):
    """Multi-task ranker, started from the retrieval model.

    Attributes:
        impressions: ``logged`` takes events without an action as the negatives, ``sampled`` draws unrated items,
            ``auto`` decides by whether the data has such events.
        targets_per_window: targets a window is trained on per epoch.
        negatives: items drawn for each target (``sampled``).
        hard_share: part of the drawing distribution that follows the retrieval model's softmax; the rest is uniform.
        head_weights: weight of a head in the sigmoid loss.
        other_head_weight: of heads not named there.
        bce_weight: of the sigmoid cross-entropies.
        listwise_weight: of the cross-entropy of a positive against its group, on the positive head.
        distillation_weight: of following the retrieval model's softmax over the group, on the positive head.
        teacher_temperature: divides the retrieval model's logits there: a catalogue softmax is more certain than the
            answer to one impression.
        use_post_age: whether the age of an item when shown is an input; if not, it is made to have no effect.
        use_dwell: whether dwell seconds of the history are an input; if not, they are made to have no effect.
    """

    impressions: Impressions = "auto"
    targets_per_window: int = 6
    negatives: int = 15
    hard_share: float = 0.9
    head_weights: Mapping[str, float] = attrs.field(factory=lambda: {"favorite": 1.0})
    other_head_weight: float = 0.3
    bce_weight: float = 1.0
    listwise_weight: float = 1.0
    distillation_weight: float = 3.0
    teacher_temperature: float = 1.0
    use_post_age: bool = False
    use_dwell: bool = False


@attrs.frozen(kw_only=True)
class Recipe:
    """Everything that decides a training run besides the data.

    Attributes:
        name: for the record.
        seed: of initialisation, batches, dropout and hash constants.
        positive_head: the action the ranker's listwise term is about.
        model: shape of the models.
        retrieval: first stage.
        ranker: second stage.
    """

    name: str = "default"
    seed: int = 0
    positive_head: str = "favorite"
    model: ModelRecipe = attrs.field(factory=ModelRecipe)
    retrieval: RetrievalRecipe = attrs.field(factory=RetrievalRecipe)
    ranker: RankerRecipe = attrs.field(factory=RankerRecipe)

    def __attrs_post_init__(self) -> None:
        for path, value, low, high in self._ranges():
            if not low <= value <= high:
                raise TrainingError(f"recipe: {path} must lie between {low} and {high}, found {value}")

    def _ranges(self) -> list[tuple[str, float, float, float]]:
        model, many = self.model, 10**7
        found: list[tuple[str, float, float, float]] = [
            (f"model.{name}", getattr(model, name), 1, many)
            for name in ("emb_size", "num_layers", "num_heads", "key_size", "candidate_seq_len", "hashes")
        ]
        found.append(("model.history_len", model.history_len, 2, many))
        for label, stage in (("retrieval", self.retrieval), ("ranker", self.ranker)):
            found += [(f"{label}.{name}", getattr(stage, name), 1, many) for name in ("epochs", "batch_size")]
            found.append((f"{label}.stride", stage.stride, 1, model.history_len - 1))
            found.append((f"{label}.warmup_steps", stage.warmup_steps, 0, many))
            found.append((f"{label}.learning_rate", stage.learning_rate, 0.0, 10.0))
            shares = ("dropout", "user_dropout", "item_dropout")
            found += [(f"{label}.{name}", getattr(stage, name), 0.0, 0.99) for name in shares]
        found.append(("retrieval.exposure_hours", self.retrieval.exposure_hours, 0.0, 1e6))
        found.append(("retrieval.temperature", self.retrieval.temperature, 1e-4, 100.0))
        found.append(("ranker.teacher_temperature", self.ranker.teacher_temperature, 1e-2, 1e3))
        found.append(("ranker.hard_share", self.ranker.hard_share, 0.0, 1.0))
        found += [
            (f"ranker.{name}", getattr(self.ranker, name), 1, many) for name in ("targets_per_window", "negatives")
        ]
        return found

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return attrs.asdict(self)


ML_100K = Recipe(
    name="ml-100k",
    # An unliked film was still chosen from the shelf: it tells what a person picks, if less than a liked one.
    retrieval=RetrievalRecipe(target_weights={"favorite": 1.0, "dwell": 0.5, "not_interested": 0.5}),
    ranker=RankerRecipe(epochs=8, stride=24, warmup_steps=30),
)
"""About a hundred thousand ratings of some thousand items, without logged impressions."""

WORLD = Recipe(
    name="world",
    retrieval=RetrievalRecipe(
        epochs=20,
        # What says "more of this"; a click or a pause says it less.
        target_weights={
            "favorite": 1.0,
            "reply": 1.0,
            "repost": 1.0,
            "quote": 1.0,
            "share": 1.0,
            "bookmark": 1.0,
            "follow_author": 1.0,
            "click": 0.3,
            "dwell": 0.3,
        },
        # Posts come and go within hours: new ones are the point, and live on their author.
        cold_items=False,
        hide_unborn=True,
        exposure_hours=1.0,
        item_dropout=0.7,
        user_dropout=0.1,
    ),
    ranker=RankerRecipe(
        epochs=8,
        targets_per_window=16,
        item_dropout=0.8,
        user_dropout=0.1,
        # The logged impressions of a window are few and easy; what to prefer among them the teacher says better.
        listwise_weight=0.0,
        teacher_temperature=3.0,
        use_post_age=True,
        use_dwell=True,
    ),
)
"""Posts of two days with logged impressions: some thousand people and posts, as in the bundled world."""
