"""The ranker with a shared prefix in PyTorch, as one would write it there."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import numpy as np
import torch
from ranker_peers import (
    CAP,
    EPSILON,
    Floats,
    angles,
    arrange,
    blocks_of,
    float_tables,
    item_rows,
    viewer_rows,
)
from ranker_rates import cores
from torch import Tensor
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch.nn import functional

from phoenix_recsys.artifact import Artifact
from phoenix_recsys.config import RankerConfig
from phoenix_recsys.requests import History, Items


@attrs.frozen(eq=False)
class TorchLayer:
    """One layer: scales float32, matrices in the precision of products."""

    norms: tuple[Tensor, ...]
    qkv: Tensor
    out: Tensor
    gate_value: Tensor
    down: Tensor


@attrs.frozen(eq=False)
class TorchViewer:
    """Per layer, keys [G, K, S] and values [G, S, K]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class TorchRanker:
    """Products in one precision with the residual stream, norms and exponentials in float32.

    Args:
        artifact: float parameters and tables.
        precision: of weights and of the inputs and outputs of products.
        compiled: whether encoding and scoring are compiled by `torch.compile`.
    """

    def __init__(
        self, artifact: Artifact, precision: Literal["float32", "bfloat16"], *, compiled: bool = False
    ) -> None:
        torch.set_num_threads(cores())
        assert isinstance(artifact.config, RankerConfig)
        self.artifact, self.config = artifact, artifact.config
        self.dtype = getattr(torch, precision)
        weights = arrange(artifact)
        self.tables = [torch.from_numpy(table) for table in float_tables(artifact)]
        half = {
            name: torch.tensor(value).to(self.dtype)
            for name, value in attrs.asdict(weights, recurse=False).items()
            if name in {"user", "history", "actions", "dwell_out", "candidate", "heads"}
        }
        self.user, self.history, self.actions = half["user"], half["history"], half["actions"]
        self.dwell_out, self.candidate, self.heads = half["dwell_out"], half["candidate"], half["heads"]
        self.dwell_in = torch.tensor(weights.dwell_in)
        self.history_surfaces = torch.tensor(weights.history_surfaces)
        self.candidate_surfaces = torch.tensor(weights.candidate_surfaces)
        self.ages = torch.tensor(weights.ages)
        self.final_norm = torch.tensor(weights.final_norm)
        self.layers = [
            TorchLayer(
                tuple(torch.tensor(scale) for scale in layer.norms),
                *(
                    torch.tensor(matrix).to(self.dtype)
                    for matrix in (layer.qkv, layer.out, layer.gate_value, layer.down)
                ),
            )
            for layer in weights.layers
        ]
        places = np.arange(self.config.history_seq_len + 2)
        cos, sin = (torch.from_numpy(table) for table in angles(self.config.model.key_size, places))
        self.cos, self.sin = cos[:, None], sin[:, None]
        self._encoder, self._trunk = self._encode, self._candidate_trunk
        if compiled:
            # Its key pickles what is imported, and haiku's stand-in for a missing flax refuses that.
            inductor.fx_graph_cache, functorch.enable_autograd_cache = False, False
            self._encoder, self._trunk = torch.compile(self._encode), torch.compile(self._candidate_trunk)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not type-checked
    def prepare(self, user_id: int, history: History) -> TorchViewer:
        """Encode a user and a history of exactly as many tokens as it has events."""
        rows = viewer_rows(self.artifact, user_id, history)
        user = self._product(self._looked_up((0, rows.user[None])), self.user)
        events = self._product(self._looked_up((1, rows.posts), (2, rows.authors)), self.history)
        actions = torch.from_numpy(rows.actions)
        taken = (actions != 0).any(dim=1, keepdim=True)
        events = events + self._product(2 * actions - 1, self.actions) * taken
        events = events + self.history_surfaces[torch.from_numpy(rows.surfaces)]
        hidden = functional.gelu(torch.from_numpy(rows.dwell)[:, None] * self.dwell_in, approximate="tanh")
        h = torch.cat([user.float(), events + self._product(hidden, self.dwell_out)])
        return TorchViewer(*self._encoder(h))

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not type-checked
    def score_prepared(self, viewer: TorchViewer, items: Items) -> Floats:
        """Logits [n, A], with probabilities computed on the way."""
        rows = item_rows(self.artifact, items)
        h = self._product(self._looked_up((1, rows.posts), (2, rows.authors)), self.candidate).float()
        h = h + self.candidate_surfaces[torch.from_numpy(rows.surfaces)] + self.ages[torch.from_numpy(rows.ages)]
        parts = [
            self._trunk(h[part], viewer.keys, viewer.values) for part in blocks_of(len(h), viewer.keys[0].shape[2])
        ]
        heads = self._product(
            _norm(torch.cat(parts) if len(parts) > 1 else parts[0], self.final_norm), self.heads
        ).float()
        torch.sigmoid(heads)
        found: Floats = heads[:, : self.config.num_actions].numpy()
        return found

    def _looked_up(self, *parts: tuple[int, np.ndarray[Any, np.dtype[np.int64]]]) -> Tensor:
        rows = [functional.embedding(torch.from_numpy(rows), self.tables[table]) for table, rows in parts]
        return torch.cat([found.flatten(1) for found in rows], dim=1)

    def _product(self, x: Tensor, w: Tensor) -> Tensor:
        return torch.mm(x.to(self.dtype), w)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, H, K], keys and values [T, G, K]."""
        model = self.config.model
        heads, groups = model.num_q_heads, model.num_kv_heads
        q, k, v = qkv.view(len(qkv), heads + 2 * groups, model.key_size).split([heads, groups, groups], dim=1)
        return q, k, v

    def _encode(self, h: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        length, all_keys, all_values = len(h), [], []
        cos, sin = self.cos[:length], self.sin[:length]
        for index, layer in enumerate(self.layers):
            x = _norm(h, layer.norms[0])
            last = index + 1 == len(self.layers)
            heads = self.config.model.num_q_heads * self.config.model.key_size
            if last:  # nobody reads more than keys and values
                k, v = self._product(x, layer.qkv[:, heads:]).view(length, 2, -1, self.config.model.key_size).unbind(1)
            else:
                q, k, v = self._split(self._product(x, layer.qkv))
            keys = _rotate(k, cos, sin).to(self.dtype).permute(1, 2, 0).contiguous()
            values = v.permute(1, 0, 2).contiguous()
            all_keys.append(keys)
            all_values.append(values)
            if last:
                break
            turned, parts = _rotate(q, cos, sin).to(self.dtype), []
            for part in blocks_of(length, length):
                logits = self._logits(turned[part], keys[:, :, : part.stop])
                triangle = torch.ones(part.stop - part.start, part.stop).tril(part.start)
                share = logits.shape[1] // len(triangle)
                weights = _capped_exp(logits) * triangle.repeat_interleave(share, 0)
                total = weights.sum(dim=2, keepdim=True)
                mixed = torch.bmm(weights.to(self.dtype), values[:, : part.stop]).float() / total
                parts.append(self._join(mixed))
            h = self._rest(layer, h, torch.cat(parts) if len(parts) > 1 else parts[0])
        return tuple(all_keys), tuple(all_values)

    def _logits(self, q: Tensor, keys: Tensor) -> Tensor:
        """[T, H, K] and [G, K, S] to [G, T·H/G, S], of a token's heads those of a group next to each other."""
        groups = keys.shape[0]
        grouped = q.reshape(len(q), groups, -1, q.shape[2]).transpose(0, 1)
        return torch.bmm(grouped.reshape(groups, -1, q.shape[2]), keys)

    def _join(self, mixed: Tensor) -> Tensor:
        """[G, T·H/G, K] to [T, H·K]."""
        model = self.config.model
        groups, share = model.num_kv_heads, model.num_q_heads // model.num_kv_heads
        apart = mixed.view(groups, -1, share * model.key_size)
        return apart.transpose(0, 1).reshape(apart.shape[1], -1)

    def _candidate_trunk(self, h: Tensor, all_keys: tuple[Tensor, ...], all_values: tuple[Tensor, ...]) -> Tensor:
        model = self.config.model
        share = model.num_q_heads // model.num_kv_heads
        place = self.config.history_seq_len + 1
        cos, sin = self.cos[place], self.sin[place]
        for layer, keys, values in zip(self.layers, all_keys, all_values, strict=True):
            q, k, v = self._split(self._product(_norm(h, layer.norms[0]), layer.qkv))
            apart = q.float().view(len(h), -1, share, model.key_size)
            own = _capped_exp((apart * k.float()[:, :, None]).sum(dim=3))  # [C, G, H/G]
            weights = _capped_exp(self._logits(_rotate(q, cos, sin).to(self.dtype), keys))
            own = own.transpose(0, 1).reshape(model.num_kv_heads, -1, 1)
            total = weights.sum(dim=2, keepdim=True) + own
            mixed = torch.bmm(weights.to(self.dtype), values).float()
            mixed = mixed + own * v.transpose(0, 1).repeat_interleave(share, 1).float()
            h = self._rest(layer, h, self._join(mixed / total))
        return h

    def _rest(self, layer: TorchLayer, h: Tensor, mixed: Tensor) -> Tensor:
        h = h + _norm(self._product(mixed, layer.out).float(), layer.norms[1])
        gate, value = self._product(_norm(h, layer.norms[2]), layer.gate_value).chunk(2, dim=1)
        gated = functional.gelu(gate, approximate="tanh") * value
        return h + _norm(self._product(gated, layer.down).float(), layer.norms[3])


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return functional.rms_norm(x, scale.shape, scale, EPSILON)


def _capped_exp(logits: Tensor) -> Tensor:
    """The queries hold the factor and the cap's divisor already; the result is float32."""
    return logits.float().tanh_().mul_(CAP).exp_()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [T, heads, K], float32."""
    first, second = x.float().chunk(2, dim=2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=2)
