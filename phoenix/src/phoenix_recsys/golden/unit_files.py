"""Fixtures of single functions. The sizes that no array shows are those the fixture format fixes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from phoenix_recsys import blocks
from phoenix_recsys.config import HashConfig, TransformerConfig, ffn_width, post_age_vocab_size
from phoenix_recsys.config_json import ConfigReader
from phoenix_recsys.golden.report import Arrays, Result, compare, entry, equal, params_under, scale_of
from phoenix_recsys.inputs import post_age_bucket, token_valid
from phoenix_recsys.layers import MultiHeadAttention, RMSNorm, rotate
from phoenix_recsys.masks import candidate_isolation_mask, mask_padded_keys
from phoenix_recsys.positions import right_positions, slot_positions
from phoenix_recsys.retrieval import CandidateTower
from phoenix_recsys.trunk import DecoderLayer

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
F32_LIMIT = 1e-5
BF16_STEP = 2.0**-7
"""The last place of a bfloat16 number between 1 and 2."""

ATTENTION = TransformerConfig(32, 8, 6, 2, 1, 2.0, 0.9)
ATTENTION_CANDIDATE_START = 4


def check_units(path: Path, arrays: Arrays) -> Iterator[Result]:
    """Compare every group of functions the file holds."""
    groups: dict[str, Callable[[Path, Arrays], Iterator[Result]]] = {
        "ffn_size": _ffn_size,
        "attn_mask": _masks,
        "right_anchored": _right_anchored,
        "post_age": _post_age,
        "norm_value": _norm_value,
        "rope": _rope,
        "rms_norm": _rms_norm,
        "attention": _attention,
        "ffn": _ffn,
        "tower": _tower,
        "reduce": _reduce,
        "lookup": _lookup,
        "hash": _hash,
    }
    present = {name.partition("/")[0] for name in arrays}
    for group, check in groups.items():
        if group in present:
            yield from check(path, arrays)
    for group in sorted(present - set(groups)):
        yield Result("", group, np.inf, 0, note="a group this checker does not know")


def _close(dtype: str, output: str, found: jax.Array, wanted: Any) -> Result:
    limit = (F32_LIMIT if dtype == "f32" else BF16_STEP) * scale_of(wanted)
    return compare(dtype, output, found, wanted, limit)


def _apply(forward: Callable[..., jax.Array], params: Any, *args: Any) -> jax.Array:
    pure: hk.Transformed = hk.without_apply_rng(hk.transform(forward))
    wide = all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(args))
    # bfloat16 is not compiled as a whole: then it is rounded after every step, as in the fixture.
    return jnp.asarray((jax.jit(pure.apply) if wide else pure.apply)(params, *args))


def _ffn_size(path: Path, arrays: Arrays) -> Iterator[Result]:
    sizes = zip(entry(path, arrays, "ffn_size/emb"), entry(path, arrays, "ffn_size/widening"), strict=True)
    found = [ffn_width(int(emb), float(widening)) for emb, widening in sizes]
    yield equal("", "ffn_size", found, entry(path, arrays, "ffn_size/out"))


def _masks(_path: Path, arrays: Arrays) -> Iterator[Result]:
    for key in sorted(arrays):
        if key.startswith("attn_mask/T"):
            length, start = (int(part) for part in key.removeprefix("attn_mask/T").split("_off"))
            yield equal("", key, candidate_isolation_mask(length, start), arrays[key] != 0)


def _right_anchored(path: Path, arrays: Arrays) -> Iterator[Result]:
    valid = jnp.asarray(entry(path, arrays, "right_anchored/padding_mask"))
    for key in sorted(arrays):
        name = key.removeprefix("right_anchored/out_hist")
        if name != key:
            history, prefix = (int(part) for part in name.split("_prefix"))
            found = right_positions(valid, history, num_prefix=prefix)
            yield compare("", key, found, arrays[key], 0)


def _post_age(path: Path, arrays: Arrays) -> Iterator[Result]:
    impr, created = entry(path, arrays, "post_age/impr"), entry(path, arrays, "post_age/creation")
    for key in sorted(arrays):
        name = key.removeprefix("post_age/")
        if name.startswith("out_gran"):
            found = post_age_bucket(impr, created, int(name.removeprefix("out_gran")))
            yield equal("", key, found, arrays[key])
        elif name.startswith("vocab_gran"):
            yield equal("", key, post_age_vocab_size(int(name.removeprefix("vocab_gran"))), arrays[key])


def _norm_value(path: Path, arrays: Arrays) -> Iterator[Result]:
    values = entry(path, arrays, "norm_value/values")
    for key in sorted(arrays):
        name = key.removeprefix("norm_value/")
        for kind in ("linear", "log"):
            if name != key and name.startswith(kind):
                scale = float(name.removeprefix(kind).replace("p", "."))
                yield _close("f32", key, blocks.normalise_dwell(values, scale, kind == "log"), arrays[key])


def _rope(path: Path, arrays: Arrays) -> Iterator[Result]:
    x = entry(path, arrays, "rope/x")
    places = {"sequential": slot_positions(x.shape[1]), "positions": entry(path, arrays, "rope/positions")}
    for dtype, kind in DTYPES.items():
        for name, positions in places.items():
            found = rotate(jnp.asarray(x, kind), jnp.asarray(positions))
            yield _close(dtype, f"rope {name}", found, entry(path, arrays, f"rope/out_{dtype}_{name}"))


def _rms_norm(path: Path, arrays: Arrays) -> Iterator[Result]:
    params = params_under(arrays, "rms_norm/params/")

    def forward(x: jax.Array) -> jax.Array:
        return jnp.asarray(RMSNorm("published", "rms_norm")(x))

    for dtype, kind in DTYPES.items():
        x = jnp.asarray(entry(path, arrays, "rms_norm/x"), kind)
        found = _apply(forward, params, x)
        yield _close(dtype, "rms_norm", found, entry(path, arrays, f"rms_norm/out_{dtype}"))


def _attention(path: Path, arrays: Arrays) -> Iterator[Result]:
    params = params_under(arrays, "attention/params/")
    valid = jnp.asarray(entry(path, arrays, "attention/padding_mask"))
    length = valid.shape[1]
    mask = mask_padded_keys(candidate_isolation_mask(length, ATTENTION_CANDIDATE_START), valid)

    def forward(x: jax.Array) -> jax.Array:
        attention = MultiHeadAttention(ATTENTION, "published", "multi_head_attention")
        return jnp.asarray(attention(x, mask, slot_positions(length)))

    for dtype, kind in DTYPES.items():
        found = _apply(forward, params, jnp.asarray(entry(path, arrays, "attention/x"), kind))
        yield _close(dtype, "attention", found, entry(path, arrays, f"attention/out_{dtype}"))


def _ffn(path: Path, arrays: Arrays) -> Iterator[Result]:
    x = entry(path, arrays, "ffn/x")
    config = TransformerConfig(x.shape[-1], 2, 1, 1, 1, 2.0)
    params = {f"layer/{name}": value for name, value in params_under(arrays, "ffn/params/").items()}

    def forward(x: jax.Array) -> jax.Array:
        return DecoderLayer(config, "published", "layer").feed_forward(x)

    for dtype, kind in DTYPES.items():
        found = _apply(forward, params, jnp.asarray(x, kind))
        yield _close(dtype, "ffn", found, entry(path, arrays, f"ffn/out_{dtype}"))


def _tower(path: Path, arrays: Arrays) -> Iterator[Result]:
    params = params_under(arrays, "tower/params/")
    cases = {
        "out4": ("x4", True),
        "out3": ("x3", True),
        "out4_zero": ("x4_with_zero_row", True),
        "mean4": ("x4", False),
        "mean4_zero": ("x4_with_zero_row", False),
    }
    for dtype, kind in DTYPES.items():
        for output, (name, projected) in cases.items():
            x = jnp.asarray(entry(path, arrays, f"tower/{name}"), kind)

            def forward(x: jax.Array, projected: bool = projected) -> jax.Array:
                return jnp.asarray(CandidateTower(x.shape[-1], projected)(x))

            found = _apply(forward, params, x)
            yield _close(dtype, f"tower {output}", found, entry(path, arrays, f"tower/{output}_{dtype}"))


def _reduce(path: Path, arrays: Arrays) -> Iterator[Result]:
    params = params_under(arrays, "reduce/params/")

    def part(name: str, kind: Any) -> jax.Array:
        return jnp.asarray(entry(path, arrays, f"reduce/{name}"), kind)

    for dtype, kind in DTYPES.items():
        user = [blocks.flatten_hashes(part("user_embeddings", kind)[:, None])]
        rows = ("history_post_embeddings", "history_author_embeddings")
        history = [blocks.flatten_hashes(part(name, kind)) for name in rows]
        history += [part(name, kind) for name in ("action", "surface", "dwell", "age")]
        rows = ("candidate_post_embeddings", "candidate_author_embeddings")
        candidates = [blocks.flatten_hashes(part(name, kind)) for name in rows]
        candidates += [part(name, kind) for name in ("c_surface", "c_age")]
        for output, matrix, parts in (
            ("user_out", "proj_mat_1", user),
            ("history_out", "proj_mat_3", history),
            ("candidate_out", "proj_mat_2", candidates),
        ):
            size = part("user_embeddings", kind).shape[-1]
            found = _apply(lambda parts, m=matrix, d=size: blocks.project(m, parts, d), params, parts)
            yield _close(dtype, f"reduce {output}", found, entry(path, arrays, f"reduce/{output}_{dtype}"))
            if output == "user_out":
                found = blocks.add_ip(found, part("user_ip_embeddings", kind))
                wanted = entry(path, arrays, f"reduce/user_ip_out_{dtype}")
                yield _close(dtype, "reduce user_ip_out", found, wanted)
    masks = {"user": "user_hashes", "history": "history_post_hashes", "candidate": "candidate_post_hashes"}
    for name, hashes in masks.items():
        valid = np.asarray(token_valid(entry(path, arrays, f"reduce/{hashes}")))
        wanted = entry(path, arrays, f"reduce/{name}_mask")
        yield equal("", f"reduce {name}_mask", valid.reshape(wanted.shape), wanted)


def _lookup(path: Path, arrays: Arrays) -> Iterator[Result]:
    params = {"~": params_under(arrays, "lookup/params/").get("phoenix_model", {})}
    table, name = params["~"].get("product_surface_embedding_table"), "product_surface_embedding_table"
    if table is None:
        yield Result("", "lookup", np.inf, 0, note=f"no {name} in the file")
        return
    vocab, size = table.shape

    def surface(index: jax.Array) -> jax.Array:
        return blocks.lookup(name, index, vocab, size, jnp.dtype(jnp.float32))

    def action(values: jax.Array) -> jax.Array:
        return blocks.action_embedding(values, size, jnp.dtype(jnp.float32))

    found = _apply(surface, params, entry(path, arrays, "lookup/surface"))
    yield _close("f32", "lookup surface", found, entry(path, arrays, "lookup/surface_out_f32"))
    found = _apply(action, params, entry(path, arrays, "lookup/actions"))
    yield _close("f32", "lookup actions", found, entry(path, arrays, "lookup/action_out_f32"))


def _hash(path: Path, arrays: Arrays) -> Iterator[Result]:
    reader = ConfigReader(path, json.loads(str(entry(path, arrays, "hash/config_json"))))
    ids = entry(path, arrays, "hash/ids")
    counts = [entry(path, arrays, f"hash/{name}").shape[1] for name in ("user", "item", "author")]
    params = reader.hash_params(HashConfig(*counts))
    for name, function in (
        ("user", params.hash_users),
        ("item", params.hash_items),
        ("author", params.hash_authors),
    ):
        yield equal("", f"hash {name}", function(ids), entry(path, arrays, f"hash/{name}"))
