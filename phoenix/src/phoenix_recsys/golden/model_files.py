"""Fixtures of whole models: parameters, a batch, embeddings and outputs, sizes in ``meta/config_json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_recsys.config import (
    FpropDtype,
    HashConfig,
    Positions,
    RankerConfig,
    RetrievalConfig,
    TransformerConfig,
)
from phoenix_recsys.golden import tolerances as tol
from phoenix_recsys.golden.report import (
    Arrays,
    FixtureError,
    Result,
    compare,
    entry,
    equal,
    params_under,
    scale_of,
)
from phoenix_recsys.inputs import Embeddings, RankerBatch, RetrievalBatch, ranker_valid
from phoenix_recsys.layers import MultiHeadAttention, RMSNorm
from phoenix_recsys.ranker import PhoenixModel
from phoenix_recsys.retrieval import CandidateTower, PhoenixRetrievalModel, UserRepresentation, top_k
from phoenix_recsys.transforms import Params
from phoenix_recsys.trunk import DecoderLayer, Transformer

DTYPES: dict[str, FpropDtype] = {"f32": "float32", "bf16": "bfloat16"}
VARIANTS: dict[str, Positions] = {"base": "slot", "full": "slot", "ra": "right"}
OPTIONAL_INPUTS = ("history_continuous_actions", "candidate_impr_ts", "candidate_post_creation_ts")

Batch = TypeVar("Batch", RankerBatch, RetrievalBatch, Embeddings)
Taps = dict[str, jax.Array]


def read_meta(path: Path, arrays: Arrays) -> dict[str, Any]:
    """The sizes a fixture was made with.

    Raises:
        FixtureError: if they are missing or not those of a model.
    """
    try:
        meta = json.loads(str(entry(path, arrays, "meta/config_json")))
    except json.JSONDecodeError as error:
        raise FixtureError(f"{path}: meta/config_json is no JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("model") not in {"ranker", "retrieval"}:
        raise FixtureError(f"{path}: meta/config_json must name the model, ranker or retrieval, found {meta!r:.80}")
    return meta


def _common(meta: dict[str, Any], dtype: FpropDtype) -> dict[str, Any]:
    return {
        "model": TransformerConfig(
            meta["emb"], meta["key"], meta["hq"], meta["hkv"], meta["layers"], meta["wf"], meta["mult"]
        ),
        "num_actions": meta["acts"],
        "history_seq_len": meta["hist"],
        "candidate_seq_len": meta["cand"],
        "fprop_dtype": dtype,
        "hash_config": HashConfig(meta["nu"], meta["ni"], meta["na"], meta["n_ip"]),
        "product_surface_vocab_size": meta["surf"],
    }


def ranker_config(meta: dict[str, Any], dtype: FpropDtype, positions: Positions) -> RankerConfig:
    """The ranker a fixture's sizes describe."""
    return RankerConfig(
        **_common(meta, dtype),
        release="january" if meta["version"] == "jan" else "may",
        positions=positions,
        post_age_granularity_mins=meta["gran"],
        num_continuous_actions=meta["n_cont"],
        continuous_action_hidden_dim=meta["cont_hidden"],
        dwell_norm_scale=meta["norm_scale"],
        dwell_use_log=meta["use_log"],
    )


def check_model(path: Path, arrays: Arrays) -> Iterator[Result]:
    """Compare a fixture of either model.

    Raises:
        FixtureError: if its entries do not make up a model that runs.
    """
    meta = read_meta(path, arrays)
    check = check_ranker if meta["model"] == "ranker" else check_retrieval
    try:
        yield from check(path, arrays, meta)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FixtureError(f"{path}: the entries do not fit the sizes in meta/config_json: {error!r}") from error


def fields(path: Path, arrays: Arrays, kind: type[Batch], prefix: str, *, without: tuple[str, ...] = ()) -> Batch:
    """A batch or embeddings from the entries ``<prefix><field>``; fields with a default may be absent."""
    optional = kind._field_defaults
    values: dict[str, Any] = {
        name: arrays.get(prefix + name) if name in optional else entry(path, arrays, prefix + name)
        for name in kind._fields
        if name not in without
    }
    return kind(**values)


def recording(taps: Taps) -> Callable[..., Any]:
    """A haiku interceptor that keeps the values which fixtures call ``inter``."""

    def intercept(
        method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: hk.MethodContext
    ) -> Any:
        out = method(*args, **kwargs)
        if context.method_name != "__call__":
            return out
        name = context.module.module_name
        if isinstance(context.module, Transformer):
            taps["token_embeddings"] = args[0]
        elif isinstance(context.module, DecoderLayer):
            taps[name.rpartition("/")[2]] = out
        elif isinstance(context.module, MultiHeadAttention):
            taps[f"{name.split('/')[-2]}_attn"] = out
        elif isinstance(context.module, RMSNorm) and name == "phoenix_model/rms_norm":
            taps["final_norm"] = out
        return out

    return intercept


def _close(
    variant: str,
    output: str,
    found: jax.Array,
    wanted: npt.NDArray[Any],
    *,
    scale: float = 1.0,
    where: npt.NDArray[np.bool_] | None = None,
    note: str = "",
) -> Result:
    """Compare with ``scale`` times the tolerance of logits in the variant's dtype."""
    exact = variant.startswith("f32")
    limit = scale * (tol.LOGIT_F32 if exact else tol.LOGIT_BF16_MAX)
    mean_limit = None if exact else scale * tol.LOGIT_BF16_MEAN
    return compare(variant, output, found, wanted, limit, mean_limit=mean_limit, where=where, note=note)


def _inter(variant: str, arrays: Arrays, prefix: str, taps: Taps) -> Iterator[Result]:
    """One line for all intermediate values: the worst of them."""
    results = []
    for key in sorted(arrays):
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            if name not in taps:
                yield Result(variant, f"inter {name}", np.inf, 0, note="not computed here")
                continue
            wanted = arrays[key]
            found = taps[name]
            # The final norm is taken of candidates only.
            wanted = wanted[:, wanted.shape[1] - found.shape[1] :] if name == "final_norm" else wanted
            results.append(_close(variant, f"inter {name}", found, wanted, scale=scale_of(wanted)))
    if results:
        worst = max(results, key=lambda result: (not result.ok, result.error / result.limit))
        count = f"worst of {len(results)}"
        yield Result(variant, worst.output, worst.error, worst.limit, worst.mean, worst.mean_limit, note=count)


def check_ranker(path: Path, arrays: Arrays, meta: dict[str, Any]) -> Iterator[Result]:
    """Compare every dtype and variant of a ranker fixture."""
    params = params_under(arrays, "params/")
    embeddings = fields(path, arrays, Embeddings, "emb/")
    valid = entry(path, arrays, "mask/candidate_valid")
    full = fields(path, arrays, RankerBatch, "in/")
    yield equal("", "mask/padding", np.asarray(ranker_valid(full)), entry(path, arrays, "mask/padding"))
    variants = [(d, v) for d in DTYPES for v in VARIANTS if f"out/{d}/{v}/logits" in arrays]
    if not variants:
        raise FixtureError(f"{path}: wanted out/<dtype>/<variant>/logits, found no such entry")
    for dtype, variant in variants:
        label, prefix = f"{dtype}/{variant}", f"out/{dtype}/{variant}/"
        config = ranker_config(meta, DTYPES[dtype], VARIANTS[variant])
        absent = OPTIONAL_INPUTS if variant == "base" else ()
        batch = fields(path, arrays, RankerBatch, "in/", without=absent)
        (logits, continuous), taps = run_ranker(config, params, batch, embeddings)
        # Under bfloat16 both the fixture and we are compared with the float32 fixture.
        reference = f"out/f32/{variant}/" if f"out/f32/{variant}/logits" in arrays else prefix
        own = np.abs(np.asarray(logits, np.float32) - arrays[prefix + "logits"])[valid]
        exact = "" if dtype == "f32" else f"to {dtype} fixture: max {own.max(initial=0):.3g}"
        yield _close(label, "logits", logits, arrays[reference + "logits"], where=valid, note=exact)
        probabilities = jax.nn.sigmoid(logits)
        wanted = entry(path, arrays, reference + "probs")
        slope = tol.SIGMOID_SLOPE
        yield _close(label, "probs", probabilities, wanted, scale=slope, where=valid)
        if continuous is not None and reference + "continuous_preds" in arrays:
            wanted = arrays[reference + "continuous_preds"]
            yield _close(label, "continuous_preds", continuous, wanted, scale=slope, where=valid)
        if prefix + "ranked_indices" in arrays:
            limit = slope * (tol.LOGIT_F32 if dtype == "f32" else tol.LOGIT_BF16_MAX)
            yield compare_ranking(label, probabilities, arrays, prefix, valid, 2 * limit)
        yield from _inter(label, arrays, f"inter/{dtype}/{variant}/", taps)


def run_ranker(
    config: RankerConfig, params: Params, batch: RankerBatch, embeddings: Embeddings
) -> tuple[tuple[jax.Array, jax.Array | None], Taps]:
    """The published program, compiled, with its intermediate values."""

    def forward(batch: RankerBatch, embeddings: Embeddings) -> tuple[Any, Taps]:
        taps: Taps = {}
        with hk.intercept_methods(recording(taps)):
            return PhoenixModel(config)(batch, embeddings), taps

    pure: hk.Transformed = hk.without_apply_rng(hk.transform(forward))
    output, taps = jax.jit(pure.apply)(params, batch, embeddings)
    return (output.logits, output.continuous_preds), taps


def compare_ranking(
    label: str,
    probabilities: jax.Array,
    arrays: Arrays,
    prefix: str,
    valid: npt.NDArray[np.bool_],
    limit: float,
) -> Result:
    """Compare orders by what they cost: the fixture's probabilities, read in our order and in its own."""
    theirs, scores = arrays[prefix + "ranked_indices"], arrays[prefix + "probs"][..., 0]
    ours = np.argsort(-np.asarray(probabilities, np.float32)[..., 0], axis=1, kind="stable")
    worst, moved = 0.0, 0
    for row in range(len(ours)):
        mine = ours[row][valid[row][ours[row]]]
        wanted = theirs[row][valid[row][theirs[row]]]
        moved += int(np.sum(mine != wanted))
        gaps = np.abs(scores[row][mine] - scores[row][wanted])
        worst = max(worst, float(gaps.max(initial=0.0)))
    return Result(label, "ranked_indices", worst, limit, note=f"{moved} of {int(valid.sum())} places differ")


def check_retrieval(path: Path, arrays: Arrays, meta: dict[str, Any]) -> Iterator[Result]:
    """Compare both dtypes of a retrieval fixture."""
    params = params_under(arrays, "params/")
    embeddings = fields(path, arrays, Embeddings, "emb/")
    batch = fields(path, arrays, RetrievalBatch, "in/")
    dtypes = [dtype for dtype in DTYPES if f"out/{dtype}/user_representation" in arrays]
    if not dtypes:
        raise FixtureError(f"{path}: wanted out/<dtype>/user_representation, found no such entry")
    for dtype in dtypes:
        prefix = f"out/{dtype}/"
        config = RetrievalConfig(**_common(meta, DTYPES[dtype]))
        (user, items), taps = run_retrieval(config, params, batch, embeddings)
        reference = "out/f32/" if "out/f32/user_representation" in arrays else prefix
        limit = tol.UNIT_F32 if dtype == "f32" else tol.UNIT_BF16
        own = np.abs(np.asarray(user.representation) - arrays[prefix + "user_representation"]).max(initial=0)
        note = "" if dtype == "f32" else f"to {dtype} fixture: max {own:.3g}"
        wanted = entry(path, arrays, reference + "user_representation")
        yield compare(dtype, "user_representation", user.representation, wanted, limit, note=note)
        wanted = entry(path, arrays, reference + "user_norm")
        yield compare(dtype, "user_norm", user.norm, wanted, 2 * limit * scale_of(wanted))
        wanted = entry(path, arrays, prefix + "candidate_representation")
        yield compare(dtype, "candidate_representation", items, wanted, tol.UNIT_F32)
        pooled = f"{prefix}candidate_representation_meanpool"
        if pooled in arrays:
            yield compare(
                dtype, pooled.removeprefix(prefix), _mean_pool(config, embeddings), arrays[pooled], tol.UNIT_F32
            )
        yield from _top_k(path, arrays, dtype, user.representation)
        yield from _inter(dtype, arrays, f"inter/{dtype}/", taps)


def run_retrieval(
    config: RetrievalConfig, params: Params, batch: RetrievalBatch, embeddings: Embeddings
) -> tuple[tuple[UserRepresentation, jax.Array], Taps]:
    """Both towers, compiled, with the trunk's intermediate values."""

    def forward(batch: RetrievalBatch, embeddings: Embeddings) -> tuple[Any, Taps]:
        taps: Taps = {}
        with hk.intercept_methods(recording(taps)):
            return PhoenixRetrievalModel(config)(batch, embeddings), taps

    pure: hk.Transformed = hk.without_apply_rng(hk.transform(forward))
    outputs, taps = jax.jit(pure.apply)(params, batch, embeddings)
    return outputs, taps


def _mean_pool(config: RetrievalConfig, embeddings: Embeddings) -> jax.Array:
    rows = jnp.concatenate(
        [jnp.asarray(embeddings.candidate_post_embeddings), jnp.asarray(embeddings.candidate_author_embeddings)],
        axis=-2,
    )

    def forward(rows: jax.Array) -> jax.Array:
        return jnp.asarray(CandidateTower(config.emb_size, enable_linear_proj=False)(rows))

    pure: hk.Transformed = hk.without_apply_rng(hk.transform(forward))
    return jnp.asarray(pure.apply({}, rows))


def _top_k(path: Path, arrays: Arrays, dtype: str, users: jax.Array) -> Iterator[Result]:
    corpus = arrays.get("corpus/embeddings")
    if corpus is None:
        return
    masks = {"topk": None, "topk_masked": "corpus/mask", "topk_few": "corpus/mask_few"}
    for name, mask in masks.items():
        prefix = f"out/{dtype}/{name}/"
        if prefix + "indices" not in arrays:
            continue
        wanted = arrays[prefix + "indices"]
        k = wanted.shape[1]
        chosen = None if mask is None else jnp.asarray(entry(path, arrays, mask))
        indices, scores = top_k(users, jnp.asarray(corpus), k, chosen)
        moved = np.sum(np.asarray(indices) != wanted, axis=1)
        # In bfloat16 two neighbours in twelve may change places.
        limit = 0 if dtype == "f32" else 2 * -(-k // 12)
        yield Result(dtype, f"{name}/indices", float(moved.max(initial=0)), limit, note="places differing in a row")
        scale = scale_of(corpus)
        bound = (2 * tol.UNIT_F32 if dtype == "f32" else tol.UNIT_BF16) * scale * np.sqrt(corpus.shape[1])
        yield compare(dtype, f"{name}/scores", scores, entry(path, arrays, prefix + "scores"), float(bound))
