"""Fixtures of initial parameters: what the published runners start with (PRNGKey 42)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy.typing as npt

from phoenix_recsys.config import HashConfig, RankerConfig, RetrievalConfig, TransformerConfig
from phoenix_recsys.golden.report import Arrays, FixtureError, Result, compare, params_under
from phoenix_recsys.transforms import init_params

SEED = 42
LIMIT = 1e-6
Entries = dict[str, npt.NDArray[Any]]


def check_init(path: Path, arrays: Arrays) -> Iterator[Result]:
    """Compare the parameters of every ``<release>/<model>/params/`` group.

    Raises:
        FixtureError: if no group is there, or one lacks the parameters that tell its sizes.
    """
    groups = sorted({name.partition("/params/")[0] for name in arrays if "/params/" in name})
    if not groups:
        raise FixtureError(f"{path}: wanted <release>/<model>/params/…, found no such entry")
    key = jax.random.split(jax.random.PRNGKey(SEED))[1]
    for group in groups:
        wanted = params_under(arrays, f"{group}/params/")
        try:
            config = _config(group, wanted)
        except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
            raise FixtureError(f"{path}: {group} does not describe a model: {error!r}") from error
        found = init_params(config, key, "published")
        for module, entries in sorted(wanted.items()):
            for name, value in sorted(entries.items()):
                ours = found.get(module, {}).get(name)
                if ours is None:
                    yield Result(group, name, float("inf"), LIMIT, note="no such parameter here")
                else:
                    yield compare(group, name, ours, value, LIMIT)
        zeros = [(m, n, v) for m, entries in found.items() for n, v in entries.items() if n not in wanted.get(m, {})]
        left_out = max((float(abs(value).max()) for _, _, value in zeros), default=0.0)
        yield Result(group, "left out, so zero", left_out, 0, note=f"{len(zeros)} parameters")


def _config(group: str, params: dict[str, Entries]) -> RankerConfig | RetrievalConfig:
    """Sizes from shapes. The trunk draws no number, so any trunk of the right width will do."""
    release, _, kind = group.partition("/")
    own: Entries = params["phoenix_model" if kind == "ranker" else "phoenix_retrieval_model"]
    surfaces, size = own["product_surface_embedding_table"].shape
    may_ranker = kind == "ranker" and release == "may"
    # Post and author hashes enter together only; one of them is as good as any split.
    rows = own["proj_mat_3"].shape[0] // size - (3 if may_ranker else 2)
    common: dict[str, Any] = {
        "model": TransformerConfig(size, 2, 1, 1, 1, 2.0),
        "num_actions": own["action_projection"].shape[0],
        "hash_config": HashConfig(own["proj_mat_1"].shape[0] // size, rows - 1, 1),
        "product_surface_vocab_size": surfaces,
    }
    if kind == "retrieval":
        return RetrievalConfig(**common)
    if release == "jan":
        return RankerConfig(**common, release="january")
    buckets = own["post_age_embedding_table"].shape[0] - 2
    return RankerConfig(
        **common,
        post_age_granularity_mins=4800 // buckets if buckets else 4801,
        num_continuous_actions=own["continuous_unembeddings"].shape[1],
        continuous_action_hidden_dim=own["history_dwell_time_proj1"].shape[1],
    )
