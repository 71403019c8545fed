"""The ranker with a shared prefix as two ONNX graphs, run by ONNX Runtime."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from ranker_peers import (
    BLOCK,
    CAP,
    EPSILON,
    LONG_PREFIX,
    Floats,
    Layer,
    PeerWeights,
    angles,
    arrange,
    blocks_of,
    float_tables,
    item_rows,
    viewer_rows,
)
from ranker_rates import cores

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.requests import History, Items

OPSET = 23
TABLES = ("user_table", "item_table", "author_table")


class OnnxRanker:
    """Looks rows up, encodes and scores in one session each; the tables are inputs that stay where they are.

    Args:
        artifact: float parameters and tables.
        int8: whether matrix products take weights in int8 and quantise activations as they go.
    """

    def __init__(self, artifact: Artifact, *, int8: bool = False) -> None:
        assert isinstance(artifact.config, RankerConfig)
        self.artifact, self.config = artifact, artifact.config
        self._weights, self._int8 = arrange(artifact), int8
        self._encoders: dict[int, Any] = {}
        self._scorer = _session(scorer(self._weights, self.config), int8=int8)
        self._tables = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(table)
            for name, table in zip(TABLES, float_tables(artifact), strict=True)
        }

    def prepare(self, user_id: int, history: History) -> dict[str, Any]:
        """Encode a user and a history of exactly as many tokens as it has events."""
        rows = viewer_rows(self.artifact, user_id, history)
        inputs = {
            "user": rows.user[None],
            "posts": rows.posts,
            "authors": rows.authors,
            "actions": rows.actions,
            "surfaces": rows.surfaces,
            "dwell": rows.dwell,
        }
        places = _places(1 + len(rows.posts), self.config)
        if places not in self._encoders:
            self._encoders[places] = _session(encoder(self._weights, self.config, places), int8=self._int8)
        found = self._encoders[places].run_with_ort_values(None, {**self._tables, **_values(inputs)})
        return dict(zip(_prefix_names(self.config), found, strict=True))

    def score_prepared(self, viewer: dict[str, Any], items: Items) -> Floats:
        """Logits [n, A], with probabilities computed on the way."""
        rows = item_rows(self.artifact, items)
        tables = {name: self._tables[name] for name in TABLES[1:]}
        parts = []
        for part in blocks_of(len(items), viewer["keys_0"].shape()[2]):
            inputs = {
                "posts": rows.posts[part],
                "authors": rows.authors[part],
                "surfaces": rows.surfaces[part],
                "ages": rows.ages[part],
            }
            found = self._scorer.run_with_ort_values(
                ["logits", "probabilities"], {**tables, **viewer, **_values(inputs)}
            )
            parts.append(found[0].numpy())
        return np.concatenate(parts)[:, : self.config.num_actions]


def _values(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()
    }


def _places(tokens: int, config: RankerConfig) -> int:
    """How many tokens the graph may have that encodes so many: one graph for each number of blocks."""
    return min(tokens + -tokens % BLOCK if tokens >= LONG_PREFIX else LONG_PREFIX - 1, config.history_seq_len + 1)


def _prefix_names(config: RankerConfig) -> list[str]:
    return [f"{kind}_{index}" for index in range(config.model.num_layers) for kind in ("keys", "values")]


@functools.cache
def _pool() -> None:
    """One pool of threads for all sessions: each with its own would spin into the other's work."""
    onnxruntime.set_global_thread_pool_sizes(cores(), 1)


def _session(model: Any, *, int8: bool) -> Any:
    _pool()
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        onnx.save(model, path)
        if int8:
            smaller = Path(directory) / "int8.onnx"
            # Only weights: products of two activations stay float32.
            chosen = {"op_types_to_quantize": ["MatMul"], "extra_options": {"MatMulConstBOnly": True}}
            quantize_dynamic(path, smaller, weight_type=QuantType.QInt8, per_channel=True, **chosen)
            path = smaller
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Graph:
    """Builds a graph node by node; a node's output is known by a name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, shape: list[int | str]) -> str:
        """An input; named dimensions are dynamic."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str) -> None:
        """Name a value and give it out."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """An array of the graph."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        return self.several(op, 1, *inputs, **attributes)[0]

    def several(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        outputs = [f"v{len(self._nodes)}_{index}" for index in range(count)]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs

    def ints(self, *values: int) -> str:
        """A constant list of integers."""
        return self.constant(values, np.int64)

    def reshape(self, x: str, *shape: int) -> str:
        """To a shape in which 0 keeps and -1 infers."""
        return self("Reshape", x, self.ints(*shape))

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """Part of an axis; what lies beyond its end is left out."""
        return self("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def model(self) -> Any:
        """The finished model."""
        graph = helper.make_graph(self._nodes, "ranker", self._inputs, self._outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    # what a transformer is made of

    def rows(self, table: str, rows: str, width: int) -> str:
        """Table rows [n, k] to [n, k·D]."""
        found = self("Gather", table, rows)
        return self("Reshape", found, self.ints(0, width))

    def norm(self, x: str, scale: Floats) -> str:
        """RMS norm over the last axis."""
        return self("RMSNormalization", x, self.constant(scale), axis=-1, epsilon=EPSILON)

    def times(self, x: str, matrix: Floats) -> str:
        """Product with weights."""
        return self("MatMul", x, self.constant(matrix))

    def capped_exp(self, logits: str) -> str:
        """The queries hold the factor and the cap's divisor already."""
        return self("Exp", self("Mul", self("Tanh", logits), self.constant(CAP)))

    def rotate(self, x: str, cos: str, sin: str) -> str:
        """Rotary positions on [T, heads, K]."""
        first, second = self.several("Split", 2, x, axis=2, num_outputs=2)
        turned = self("Sub", self("Mul", first, cos), self("Mul", second, sin))
        other = self("Add", self("Mul", second, cos), self("Mul", first, sin))
        return self("Concat", turned, other, axis=2)

    def heads(self, x: str, config: RankerConfig, counts: tuple[int, ...]) -> list[str]:
        """[T, sum(counts)·K] to [T, count, K] each."""
        whole = self.reshape(x, 0, sum(counts), config.model.key_size)
        if len(counts) == 1:
            return [whole]
        return self.several("Split", len(counts), whole, self.ints(*counts), axis=1)

    def grouped(self, q: str, config: RankerConfig) -> str:
        """Queries [T, H, K] to [G, T·H/G, K], of a token's heads those of a group next to each other."""
        model = config.model
        apart = self.reshape(q, 0, model.num_kv_heads, -1, model.key_size)
        return self.reshape(self("Transpose", apart, perm=[1, 0, 2, 3]), model.num_kv_heads, -1, model.key_size)

    def join(self, mixed: str, config: RankerConfig) -> str:
        """[G, T·H/G, K] to [T, H·K]."""
        model = config.model
        share = model.num_q_heads // model.num_kv_heads
        apart = self.reshape(mixed, model.num_kv_heads, -1, share * model.key_size)
        return self.reshape(self("Transpose", apart, perm=[1, 0, 2]), -1, model.num_q_heads * model.key_size)

    def rest(self, layer: Layer, h: str, mixed: str) -> str:
        """What follows the attention of a layer."""
        h = self("Add", h, self.norm(self.times(mixed, layer.out), layer.norms[1]))
        both = self.times(self.norm(h, layer.norms[2]), layer.gate_value)
        gate, value = self.several("Split", 2, both, axis=1, num_outputs=2)
        gated = self("Mul", self("Gelu", gate, approximate="tanh"), value)
        return self("Add", h, self.norm(self.times(gated, layer.down), layer.norms[3]))


def encoder(weights: PeerWeights, config: RankerConfig, places: int) -> Any:
    """User and history, `places` tokens at most, to keys [G, K, S] and values [G, S, K] of every layer."""
    g, model, hashes, width = Graph(), config.model, config.hash_config, config.emb_size
    tables = [g.input(name, TensorProto.FLOAT, [f"{name}_rows", width]) for name in TABLES]
    user = g.input("user", TensorProto.INT64, [1, hashes.num_user_hashes])
    posts = g.input("posts", TensorProto.INT64, ["E", hashes.num_item_hashes])
    authors = g.input("authors", TensorProto.INT64, ["E", hashes.num_author_hashes])
    actions = g.input("actions", TensorProto.FLOAT, ["E", config.num_actions])
    surfaces = g.input("surfaces", TensorProto.INT64, ["E"])
    dwell = g.input("dwell", TensorProto.FLOAT, ["E"])
    one, two = g.constant(1.0), g.constant(2.0)
    looked_up = [
        g.rows(tables[1], posts, hashes.num_item_hashes * width),
        g.rows(tables[2], authors, hashes.num_author_hashes * width),
    ]
    events = g.times(g("Concat", *looked_up, axis=1), weights.history)
    signed = g.times(g("Sub", g("Mul", two, actions), one), weights.actions)
    taken = g("Greater", g("ReduceMax", g("Abs", actions), g.ints(1), keepdims=1), g.constant(0.0))
    events = g("Add", events, g("Mul", signed, g("Cast", taken, to=TensorProto.FLOAT)))
    events = g("Add", events, g("Gather", g.constant(weights.history_surfaces), surfaces))
    hidden = g("Gelu", g("Mul", g("Unsqueeze", dwell, g.ints(1)), g.constant(weights.dwell_in)), approximate="tanh")
    events = g("Add", events, g.times(hidden, weights.dwell_out))
    first = g.times(g.rows(tables[0], user, hashes.num_user_hashes * width), weights.user)
    h = g("Concat", first, events, axis=0)
    length = g("Shape", h, start=0, end=1)
    tables_of_angles = angles(model.key_size, np.arange(places))
    cos, sin = (
        g("Unsqueeze", g("Slice", g.constant(table), g.ints(0), length, g.ints(0)), g.ints(1))
        for table in tables_of_angles
    )
    for index, layer in enumerate(weights.layers):
        last = index + 1 == len(weights.layers)
        groups, heads = model.num_kv_heads, model.num_q_heads
        x = g.norm(h, layer.norms[0])
        counts = (groups, groups) if last else (heads, groups, groups)  # nobody reads more of the last layer
        *queries, k, v = g.heads(g.times(x, layer.qkv[:, -sum(counts) * model.key_size :]), config, counts)
        keys = g("Transpose", g.rotate(k, cos, sin), perm=[1, 2, 0])
        values = g("Transpose", v, perm=[1, 0, 2])
        g.output(f"keys_{index}", keys)
        g.output(f"values_{index}", values)
        if last:
            break
        turned = g.rotate(queries[0], cos, sin)
        parts = [_causal_block(g, config, turned, keys, values, part) for part in blocks_of(places, places)]
        h = g.rest(layer, h, parts[0] if len(parts) == 1 else g("Concat", *parts, axis=0))
    return g.model()


def _causal_block(g: Graph, config: RankerConfig, turned: str, keys: str, values: str, part: slice) -> str:
    """Attention of some queries to the keys up to their own, [T, H·K]."""
    model = config.model
    share = model.num_q_heads // model.num_kv_heads
    triangle = np.tri(part.stop - part.start, part.stop, part.start, np.float32)
    mask = g.constant(triangle.repeat(share, 0))
    queries = g.grouped(g.slice(turned, part.start, part.stop, 0), config)
    some_keys, some_values = g.slice(keys, 0, part.stop, 2), g.slice(values, 0, part.stop, 1)
    weights = g.capped_exp(g("MatMul", queries, some_keys))
    for axis in (1, 2):  # a shorter history than there are places for
        end = g("Shape", weights, start=axis, end=axis + 1)
        mask = g("Slice", mask, g.ints(0), end, g.ints(axis - 1))
    weights = g("Mul", weights, mask)
    total = g("ReduceSum", weights, g.ints(2), keepdims=1)
    return g.join(g("Div", g("MatMul", weights, some_values), total), config)


def scorer(weights: PeerWeights, config: RankerConfig) -> Any:
    """Items to logits, continuous predictions behind them, and probabilities."""
    g, model, hashes, width = Graph(), config.model, config.hash_config, config.emb_size
    groups, heads, size = model.num_kv_heads, model.num_q_heads, model.key_size
    share = heads // groups
    tables = [g.input(name, TensorProto.FLOAT, [f"{name}_rows", width]) for name in TABLES[1:]]
    posts = g.input("posts", TensorProto.INT64, ["C", hashes.num_item_hashes])
    authors = g.input("authors", TensorProto.INT64, ["C", hashes.num_author_hashes])
    surfaces, ages = (g.input(name, TensorProto.INT64, ["C"]) for name in ("surfaces", "ages"))
    prefix = [
        g.input(name, TensorProto.FLOAT, [groups, size, "S"] if name.startswith("keys") else [groups, "S", size])
        for name in _prefix_names(config)
    ]
    looked_up = [
        g.rows(tables[0], posts, hashes.num_item_hashes * width),
        g.rows(tables[1], authors, hashes.num_author_hashes * width),
    ]
    h = g.times(g("Concat", *looked_up, axis=1), weights.candidate)
    h = g("Add", h, g("Gather", g.constant(weights.candidate_surfaces), surfaces))
    h = g("Add", h, g("Gather", g.constant(weights.ages), ages))
    cos, sin = (g.constant(table[:, None]) for table in angles(size, [config.history_seq_len + 1]))
    for index, layer in enumerate(weights.layers):
        keys, values = prefix[2 * index : 2 * index + 2]
        x = g.times(g.norm(h, layer.norms[0]), layer.qkv)
        q, k, v = g.heads(x, config, (heads, groups, groups))
        apart = g.reshape(q, 0, groups, share, size)
        own = g("ReduceSum", g("Mul", apart, g("Unsqueeze", k, g.ints(2))), g.ints(3), keepdims=1)  # [C, G, H/G, 1]
        own = g.capped_exp(own)
        others = g.capped_exp(g("MatMul", g.grouped(g.rotate(q, cos, sin), config), keys))
        own_mixed = g.grouped(g.reshape(g("Mul", own, g("Unsqueeze", v, g.ints(2))), 0, heads, size), config)
        own = g.reshape(g("Transpose", own, perm=[1, 0, 2, 3]), groups, -1, 1)
        total = g("Add", g("ReduceSum", others, g.ints(2), keepdims=1), own)
        mixed = g("Div", g("Add", g("MatMul", others, values), own_mixed), total)
        h = g.rest(layer, h, g.join(mixed, config))
    logits = g.times(g.norm(h, weights.final_norm), weights.heads)
    g.output("logits", logits)
    g.output("probabilities", g("Sigmoid", logits))
    return g.model()
