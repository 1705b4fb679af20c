"""BERT's encoder in a few layers: states of word pieces, without the seconds that transformers takes to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dear.layers import Attention, shapes_alone


@dataclass(frozen=True)
class BertConfig:
    """The settings of a published ``config.json`` that the network follows from."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float


class BertLayer(nn.Module):
    """Post-norm transformer block."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.attention = Attention(width, config.num_attention_heads)
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.mlp_norm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """x [B, T, C], visible [B, 1, 1, T] bool -> [B, T, C]."""
        queries, keys, values = self.attention.project(x)
        x = self.attention_norm(x + self.attention.attend(queries, keys, values, visible))
        return self.mlp_norm(x + self.mlp(x))


class Bert(nn.Module):
    """Word pieces to states, of one segment. The word embeddings stay where the weights are, mapped from a file."""

    words: Tensor  # [vocabulary, C]
    places: Tensor  # [most pieces, C], with the embedding of the first segment

    def __init__(self, config: BertConfig, weights: Mapping[str, Tensor]):
        """weights: by their published names, of which those of the pooler are not needed.

        Raises KeyError naming one that is missing, RuntimeError for a shape that does not fit.
        """
        super().__init__()
        self.register_buffer("words", weights["embeddings.word_embeddings.weight"], persistent=False)
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        places = weights["embeddings.position_embeddings.weight"] + segment
        self.register_buffer("places", places, persistent=False)
        with shapes_alone():  # their tensors become those of the file
            self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
            self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        own = {}
        for kind in ("weight", "bias"):
            own[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
            for index in range(config.num_hidden_layers):
                theirs, ours = f"encoder.layer.{index}", f"layers.{index}"
                qkv = [weights[f"{theirs}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
                own[f"{ours}.attention.qkv.{kind}"] = torch.cat(qkv)
                for name, published in PARTS.items():
                    own[f"{ours}.{name}.{kind}"] = weights[f"{theirs}.{published}.{kind}"]
        self.load_state_dict(own, assign=True)
        self.requires_grad_(False).eval()

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """ids [B, T], real [B, T] bool -> states [B, T, C] of the last layer; those of padding mean nothing."""
        x = self.norm(self.words[ids] + self.places[: ids.shape[1]])
        visible = real[:, None, None, :]
        for layer in self.layers:
            x = layer(x, visible)
        return x


PARTS = {  # of a layer: ours and the published name
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
