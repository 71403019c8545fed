"""Configuration of the two models, as plain immutable values.

Field names and defaults follow the x-algorithm Phoenix release of May 2026. Options of that release which no
forward pass reads (loss settings, ``use_ip_address``, ``mask_neg_feedback_on_negatives``) are left out; its
``right_anchored_rope`` flag is ``positions="right"`` here.
"""

from __future__ import annotations

from typing import Literal

import attrs

Release = Literal["january", "may"]
Positions = Literal["anchored", "right", "slot"]
UserPooling = Literal["mean", "last"]
FpropDtype = Literal["bfloat16", "float32"]
Init = Literal["published", "trainable"]

MAX_POST_AGE_MINUTES = 4800
"""Posts older than 80 hours share the last age bucket."""


def ffn_width(emb_size: int, widening_factor: float) -> int:
    """Width of the gated feed-forward layer.

    Two thirds of the widened size, rounded up to a multiple of 8.
    """
    widened = int(widening_factor * emb_size) * 2 // 3
    return -(-widened // 8) * 8


def post_age_vocab_size(granularity_mins: int) -> int:
    """Number of post-age buckets: 0 for unknown, then one per started interval, the last one open."""
    return MAX_POST_AGE_MINUTES // granularity_mins + 2


@attrs.frozen
class TransformerConfig:
    """Shape of the trunk.

    Attributes:
        emb_size: width D of a token.
        key_size: width K of one attention head; even, because rotary positions pair its halves.
        num_q_heads: query heads H; a multiple of ``num_kv_heads``.
        num_kv_heads: key/value heads G.
        num_layers: decoder layers L.
        widening_factor: feed-forward widening before the two-thirds rule (see :func:`ffn_width`).
        attn_output_multiplier: factor on the attention logits; it replaces the usual 1/sqrt(K).
    """

    emb_size: int
    key_size: int
    num_q_heads: int
    num_kv_heads: int
    num_layers: int
    widening_factor: float = 4.0
    attn_output_multiplier: float = 1.0

    def __attrs_post_init__(self) -> None:
        for name in ("emb_size", "key_size", "num_q_heads", "num_kv_heads", "num_layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"TransformerConfig.{name} must be a positive integer, not {value!r}")
        if self.key_size % 2:
            raise ValueError(f"TransformerConfig.key_size must be even (rotary positions), not {self.key_size}")
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(
                f"TransformerConfig.num_q_heads ({self.num_q_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )

    @property
    def ffn_size(self) -> int:
        """Width F of the feed-forward layer."""
        return ffn_width(self.emb_size, self.widening_factor)


@attrs.frozen
class HashConfig:
    """How many hash buckets (embedding rows) stand for one user, item, author or address."""

    num_user_hashes: int = 2
    num_item_hashes: int = 2
    num_author_hashes: int = 2
    num_ip_hashes: int = 0

    def __attrs_post_init__(self) -> None:
        for name in ("num_user_hashes", "num_item_hashes", "num_author_hashes"):
            if getattr(self, name) < 1:
                raise ValueError(f"HashConfig.{name} must be at least 1, not {getattr(self, name)!r}")
        if self.num_ip_hashes < 0:
            raise ValueError(f"HashConfig.num_ip_hashes must not be negative, not {self.num_ip_hashes!r}")


@attrs.frozen
class RankerConfig:
    """The ranker: user, history and candidates in, one logit per action out.

    Attributes:
        model: the trunk.
        num_actions: discrete action heads A.
        history_seq_len: longest history S served; also where ``anchored`` and ``right`` positions put
            candidates.
        candidate_seq_len: candidates per published call; only ``slot`` positions depend on it.
        fprop_dtype: dtype of activations; parameters are always float32.
        hash_config: numbers of hash functions.
        product_surface_vocab_size: rows of the product-surface table.
        release: ``may`` has dwell time, post age and continuous heads, ``january`` has not.
        positions: ``anchored``, ``right`` or ``slot``; see :mod:`phoenix_recsys.positions`.
        post_age_granularity_mins: width of a post-age bucket in minutes.
        num_continuous_actions: continuous heads (May).
        continuous_action_hidden_dim: hidden width of the dwell-time projection (May).
        dwell_norm_scale: dwell values are clipped to [0, this] and divided by it (May).
        dwell_use_log: divide log1p values instead (May).
        action_names: names of the action heads in order, or None for the published enumeration.
    """

    model: TransformerConfig
    num_actions: int
    history_seq_len: int = 128
    candidate_seq_len: int = 32
    fprop_dtype: FpropDtype = "bfloat16"
    hash_config: HashConfig = attrs.field(factory=HashConfig)
    product_surface_vocab_size: int = 16
    release: Release = "may"
    positions: Positions = "anchored"
    post_age_granularity_mins: int = 60
    num_continuous_actions: int = 8
    continuous_action_hidden_dim: int = 64
    dwell_norm_scale: float = 30.0
    dwell_use_log: bool = False
    action_names: tuple[str, ...] | None = None

    def __attrs_post_init__(self) -> None:
        _check_common(self)
        _check_choice("RankerConfig.release", self.release, ("january", "may"))
        _check_choice("RankerConfig.positions", self.positions, ("anchored", "right", "slot"))

    @property
    def emb_size(self) -> int:
        """Width D of a token and of an embedding row."""
        return self.model.emb_size

    @property
    def post_age_vocab_size(self) -> int:
        """Rows of the post-age table."""
        return post_age_vocab_size(self.post_age_granularity_mins)


@attrs.frozen
class RetrievalConfig:
    """The two towers of retrieval: user and history on one side, an item on the other, unit vectors both.

    Attributes:
        model: the trunk of the user tower.
        num_actions: width A of the history's action vectors.
        history_seq_len: longest history S served.
        candidate_seq_len: items per call in the published runner.
        fprop_dtype: dtype of the user tower's activations; the item tower follows its embeddings.
        hash_config: numbers of hash functions.
        product_surface_vocab_size: rows of the product-surface table.
        enable_linear_proj: False replaces the item tower by the mean of its embeddings.
        user_pooling: ``mean`` over valid tokens as published, or ``last``: the last valid token (SASRec-like;
            ours).
        action_names: names of the action columns in order, or None for the published enumeration.
    """

    model: TransformerConfig
    num_actions: int
    history_seq_len: int = 128
    candidate_seq_len: int = 32
    fprop_dtype: FpropDtype = "bfloat16"
    hash_config: HashConfig = attrs.field(factory=HashConfig)
    product_surface_vocab_size: int = 16
    enable_linear_proj: bool = True
    user_pooling: UserPooling = "mean"
    action_names: tuple[str, ...] | None = None

    def __attrs_post_init__(self) -> None:
        _check_common(self)
        _check_choice("RetrievalConfig.user_pooling", self.user_pooling, ("mean", "last"))

    @property
    def emb_size(self) -> int:
        """Width D of a token, of an embedding row and of a representation."""
        return self.model.emb_size


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _check_common(config: RankerConfig | RetrievalConfig) -> None:
    owner = type(config).__name__
    for name in ("num_actions", "history_seq_len", "candidate_seq_len", "product_surface_vocab_size"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{owner}.{name} must be a positive integer, not {value!r}")
    _check_choice(f"{owner}.fprop_dtype", config.fprop_dtype, ("bfloat16", "float32"))
    names = config.action_names
    if names is not None and (len(names) != config.num_actions or len(set(names)) != len(names)):
        raise ValueError(
            f"{owner}.action_names must hold {config.num_actions} distinct names (num_actions), "
            f"found {len(names)} with {len(set(names))} distinct"
        )
