"""config.json of an artifact directory, read and written.

The keys are those of the published May 2026 artifacts; ours beside them (``kind``, ``release``,
``positions``, ``fprop_dtype``, ``user_pooling``, …) are optional, so that a published file reads unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import attrs

from phoenix_recsys.config import HashConfig, Positions, RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.errors import ArtifactError
from phoenix_recsys.hashing import EntityHash, HashParams

Kind = Literal["ranker", "retrieval"]

CONFIG_FILE = "config.json"
PUBLISHED_WIDENING = 2.0
PUBLISHED_MULTIPLIER = 0.125
FIX_CONFIG = "Correct the entry, or rebuild the model."

# Far above any model of this family; a larger figure is damage, and would only end in an out-of-memory error
# later.
LARGEST = {
    "emb_size": 65_536,
    "key_size": 8_192,
    "num_heads": 1_024,
    "num_kv_heads": 1_024,
    "num_layers": 512,
    "history_seq_len": 1_000_000,
    "candidate_seq_len": 1_000_000,
    "num_actions": 65_536,
    "num_user_hashes": 256,
    "num_item_hashes": 256,
    "num_author_hashes": 256,
    "num_ip_hashes": 256,
    "product_surface_vocab_size": 1_000_000,
    "post_age_granularity_mins": 1_000_000,
    "num_continuous_actions": 65_536,
    "continuous_action_hidden_dim": 65_536,
    "user_vocab_size": 2**31 - 1,
    "item_vocab_size": 2**31 - 1,
    "author_vocab_size": 2**31 - 1,
}

T = TypeVar("T")


@attrs.frozen
class ConfigReader:
    """Typed access to the entries of a config.json.

    Every mistake is an :class:`ArtifactError` naming its key.
    """

    path: Path
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> ConfigReader:
        """Open a file that must hold one JSON object."""
        advice = "Point to a model's directory, with config.json and the files of its parameters and tables."
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError as error:
            raise ArtifactError(path, None, "a configuration file", "no such file", advice) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(path, None, "a configuration file", str(error), advice) from error
        try:
            entries = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ArtifactError(path, None, "valid JSON", str(error), FIX_CONFIG) from error
        if not isinstance(entries, dict):
            raise ArtifactError(path, None, "one JSON object", type(entries).__name__, FIX_CONFIG)
        return cls(path, entries)

    def fail(self, key: str, wanted: str, found: object) -> ArtifactError:
        """The error for entry ``key``."""
        return ArtifactError(self.path, key, wanted, str(found), FIX_CONFIG)

    def integer(self, key: str, default: int | None = None, low: int = 1) -> int:
        """A whole number between ``low`` and what is sane for the key."""
        value = self.entries.get(key, default)
        high = LARGEST[key]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(key, f"a whole number from {low} to {high}", self._show(key, value))
        return value

    def number(self, key: str, default: float) -> float:
        """A positive finite number."""
        value = self.entries.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e9:
            raise self.fail(key, "a positive number", self._show(key, value))
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A JSON true or false."""
        value = self.entries.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false", self._show(key, value))
        return value

    def choice(self, key: str, allowed: tuple[T, ...], default: T) -> T:
        """One of a few words."""
        value = self.entries.get(key, default)
        for word in allowed:
            if value == word and isinstance(value, str):
                return word
        raise self.fail(key, f"one of {', '.join(map(str, allowed))}", self._show(key, value))

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of distinct words, or None where absent."""
        value = self.entries.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self.fail(key, "a list of names", self._show(key, value))
        if len(set(value)) != len(value):
            raise self.fail(key, "distinct names", self._show(key, value))
        return tuple(value)

    def entity_hash(self, name: str, count: int) -> EntityHash:
        """The hash constants of ``user``, ``item`` or ``author``."""
        constants = self.entries.get("hash_params")
        if not isinstance(constants, dict):
            raise self.fail(
                "hash_params",
                "an object with scales, biases and moduli",
                self._show("hash_params", constants),
            )

        def whole(key: str, value: object) -> int:
            if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**64:
                raise self.fail(f"hash_params.{key}", "whole numbers of 64 bits", repr(value)[:80])
            return value

        def wholes(key: str) -> tuple[int, ...]:
            values = constants.get(key)
            if not isinstance(values, list) or len(values) != count:
                wanted = f"a list of {count} numbers (num_{name}_hashes)"
                raise self.fail(f"hash_params.{key}", wanted, repr(values)[:80])
            return tuple(whole(key, value) for value in values)

        modulus = whole(f"{name}_modulus", constants.get(f"{name}_modulus"))
        if not 0 < modulus < 2**63:
            raise self.fail(f"hash_params.{name}_modulus", "a number from 1 to 2**63 - 1", modulus)
        scales, biases = wholes(f"{name}_hash_scales"), wholes(f"{name}_biases")
        return EntityHash(scales, biases, modulus, self.integer(f"{name}_vocab_size", low=2))

    def hash_params(self, hashes: HashConfig) -> HashParams:
        """All hash constants."""
        return HashParams(
            self.entity_hash("user", hashes.num_user_hashes),
            self.entity_hash("item", hashes.num_item_hashes),
            self.entity_hash("author", hashes.num_author_hashes),
        )

    def config(
        self, kind: Kind, shapes: Mapping[str, tuple[int, ...]], default_positions: Positions
    ) -> RankerConfig | RetrievalConfig:
        """The model configuration.

        A published file does not record the sizes of the dwell projection and of the continuous heads, nor
        the
        release: those then follow from ``shapes``, the parameters at hand.
        """
        heads = self.integer("num_heads")
        try:
            model = TransformerConfig(
                self.integer("emb_size"),
                self.integer("key_size"),
                heads,
                self.integer("num_kv_heads", heads),
                self.integer("num_layers"),
                self.number("widening_factor", PUBLISHED_WIDENING),
                self.number("attn_output_multiplier", PUBLISHED_MULTIPLIER),
            )
        except ValueError as error:
            raise self.fail("key_size, num_heads, num_kv_heads", "a possible attention shape", error) from error
        names = self.names("action_names")
        actions = self.integer("num_actions")
        if names is not None and len(names) != actions:
            raise self.fail("action_names", f"{actions} names (num_actions)", f"{len(names)} names")
        common: dict[str, Any] = {
            "model": model,
            "num_actions": actions,
            "history_seq_len": self.integer("history_seq_len"),
            "candidate_seq_len": self.integer("candidate_seq_len"),
            "fprop_dtype": self.choice("fprop_dtype", ("bfloat16", "float32"), "bfloat16"),
            "hash_config": HashConfig(
                self.integer("num_user_hashes"),
                self.integer("num_item_hashes"),
                self.integer("num_author_hashes"),
                self.integer("num_ip_hashes", 0, low=0),
            ),
            "product_surface_vocab_size": self.integer("product_surface_vocab_size", 16),
            "action_names": names,
        }
        if kind == "retrieval":
            return RetrievalConfig(
                **common,
                enable_linear_proj=self.flag("enable_linear_proj", True),
                user_pooling=self.choice("user_pooling", ("mean", "last"), "mean"),
            )
        has_age = "phoenix_model/post_age_embedding_table" in shapes
        hidden = _columns(shapes, "phoenix_model/history_dwell_time_proj1", 64)
        continuous = _columns(shapes, "phoenix_model/continuous_unembeddings", 8)
        return RankerConfig(
            **common,
            release=self.choice("release", ("january", "may"), "may" if has_age or not shapes else "january"),
            positions=self.choice("positions", ("anchored", "right", "slot"), default_positions),
            post_age_granularity_mins=self.integer("post_age_granularity_mins", 60),
            num_continuous_actions=self.integer("num_continuous_actions", continuous),
            continuous_action_hidden_dim=self.integer("continuous_action_hidden_dim", hidden),
            dwell_norm_scale=self.number("dwell_norm_scale", 30.0),
            dwell_use_log=self.flag("dwell_use_log", False),
        )

    def _show(self, key: str, value: object) -> str:
        return repr(value)[:80] if key in self.entries else "no such entry"


def _columns(shapes: Mapping[str, tuple[int, ...]], name: str, default: int) -> int:
    shape = shapes.get(name, ())
    return shape[1] if len(shape) == 2 else default


def config_entries(config: RankerConfig | RetrievalConfig, hash_params: HashParams) -> dict[str, Any]:
    """The config.json entries of a model, published keys and ours."""
    model, hashes = config.model, config.hash_config
    entries: dict[str, Any] = {
        "kind": "ranker" if isinstance(config, RankerConfig) else "retrieval",
        "emb_size": model.emb_size,
        "key_size": model.key_size,
        "num_heads": model.num_q_heads,
        "num_kv_heads": model.num_kv_heads,
        "num_layers": model.num_layers,
        "widening_factor": model.widening_factor,
        "attn_output_multiplier": model.attn_output_multiplier,
        "history_seq_len": config.history_seq_len,
        "candidate_seq_len": config.candidate_seq_len,
        "num_actions": config.num_actions,
        "num_user_hashes": hashes.num_user_hashes,
        "num_item_hashes": hashes.num_item_hashes,
        "num_author_hashes": hashes.num_author_hashes,
        "num_ip_hashes": hashes.num_ip_hashes,
        "product_surface_vocab_size": config.product_surface_vocab_size,
        "fprop_dtype": config.fprop_dtype,
        "hash_params": hash_params.to_json(),
        "user_vocab_size": hash_params.user.vocab_size,
        "item_vocab_size": hash_params.item.vocab_size,
        "author_vocab_size": hash_params.author.vocab_size,
    }
    if config.action_names is not None:
        entries["action_names"] = list(config.action_names)
    own = (
        (
            "release",
            "positions",
            "post_age_granularity_mins",
            "num_continuous_actions",
            "continuous_action_hidden_dim",
            "dwell_norm_scale",
            "dwell_use_log",
        )
        if isinstance(config, RankerConfig)
        else ("enable_linear_proj", "user_pooling")
    )
    return entries | {name: getattr(config, name) for name in own}
