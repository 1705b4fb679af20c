"""LAION's CLAP checkpoints (``.pt``), read without executing their code and mapped to transformers' model."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dear.conditioning.base import EncoderError

if TYPE_CHECKING:
    from transformers import ClapConfig, ClapModel

FIELD = "conditioning.clap"

# Parts of LAION's module beside the two embedders: the fixed front end and masks, which are computed here; the
# classifier of AudioSet's classes; the extra layers after the embeddings, which only training used.
LEFTOVERS = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\."
    r"|audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask$"
    r"|(audio|text)_transform\."
    r"|text_branch\.embeddings\.position_ids$"
)
RENAMES = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.bn0\.", ".batch_norm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^(audio|text)_projection\.0\.", r"\1_projection.linear1."),
    (r"^(audio|text)_projection\.2\.", r"\1_projection.linear2."),
)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a LAION checkpoint with LAION's names. Raises :class:`EncoderError`.

    Tensors may be memory-mapped; those of the optimiser are never read.
    """
    # Training figures are NumPy scalars. Only their constructors are allowed beside tensors.
    scalar: Any = type(np.float64(0)).__reduce__(np.float64(0))[0]
    allowed: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = [np.dtype, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8"))]
    try:
        with torch.serialization.safe_globals([*allowed, *kinds]):
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged files raise whatever the unpickler raises
        reason = str(error).partition("\n")[0]
        raise EncoderError(f"{FIELD}: cannot open {path} as tensors alone ({reason}); fetch it again") from error
    state = data.get("state_dict", data) if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"{FIELD}: {path} must hold a state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def is_fused(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint's audio branch fuses crops of long sounds."""
    return "audio_branch.patch_embed.mel_conv2d.weight" in state


def load_mapped(path: Path) -> ClapModel:
    """transformers' ClapModel with every parameter from a LAION checkpoint, float32. Raises :class:`EncoderError`.

    Sizes follow from the tensors' shapes: HTSAT of any depth and width, fused (by attention, as all published ones) or
    unfused, and RoBERTa.
    """
    from transformers import ClapModel

    state = read_checkpoint(path)
    try:
        config = _config(state)
    except (KeyError, ValueError) as error:
        raise EncoderError(f"{FIELD}: {path} must be a CLAP of HTSAT and RoBERTa, but lacks {error}") from None
    with torch.device("meta"):  # built without memory or random numbers; the tensors of the file are assigned
        model = ClapModel(config)
    wanted = model.state_dict()
    mapped = _mapped(state) | _fixed(config)
    for problem, names in (
        ("holds unknown", mapped.keys() - wanted.keys()),
        ("lacks", wanted.keys() - mapped.keys()),
        ("has other shapes of", {n for n in wanted.keys() & mapped.keys() if wanted[n].shape != mapped[n].shape}),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise EncoderError(f"{FIELD}: {path} {problem} {shown} ({len(names)} by transformers' names)")
    model.load_state_dict(mapped, assign=True)
    return model.float().requires_grad_(False).eval()


def _mapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mapped = {}
    for name, value in state.items():
        if LEFTOVERS.match(name):
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        if ".attention.self.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                mapped[name.replace("qkv", part)] = third.clone()
        else:
            mapped[name] = value.clone()
    return mapped


def _fixed(config: ClapConfig) -> dict[str, Tensor]:
    """Buffers that transformers keeps among the weights and LAION does not."""
    text: Any = config.text_config  # a dict or None in its type alone
    positions = torch.arange(text.max_position_embeddings)[None]
    prefix = "text_model.embeddings."
    return {prefix + "position_ids": positions, prefix + "token_type_ids": torch.zeros_like(positions)}


def _config(state: Mapping[str, Tensor]) -> ClapConfig:
    """The sizes of a checkpoint, from the shapes of its tensors. Raises KeyError where such a tensor is absent."""
    from transformers import ClapConfig

    def shape(name: str) -> torch.Size:
        return state[name].shape

    def count(pattern: str) -> int:
        """The number of indices at the end of the beginnings of names."""
        return len({found[0] for found in (re.match(pattern, name) for name in state) if found})

    audio, text = "audio_branch.", "text_branch."
    stages = count(r"audio_branch\.layers\.\d+\.")
    tables = [shape(f"{audio}layers.{i}.blocks.0.attn.relative_position_bias_table") for i in range(stages)]
    width = shape(audio + "patch_embed.proj.weight")[0]
    fused = is_fused(state)
    words, hidden = shape(text + "embeddings.word_embeddings.weight")
    return ClapConfig(
        projection_dim=shape("text_projection.0.weight")[0],
        audio_config={
            "num_mel_bins": shape(audio + "bn0.weight")[0],
            "patch_embeds_hidden_size": width,
            "patch_size": shape(audio + "patch_embed.proj.weight")[-1],
            "depths": [count(rf"audio_branch\.layers\.{i}\.blocks\.\d+\.") for i in range(stages)],
            "num_attention_heads": [table[1] for table in tables],
            "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
            "hidden_size": shape(audio + "norm.weight")[0],
            "mlp_ratio": shape(audio + "layers.0.blocks.0.mlp.fc1.weight")[0] / width,
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
            "aff_block_r": width // shape(audio + "patch_embed.fusion_model.local_att.0.weight")[0] if fused else 4,
        },
        text_config={
            "vocab_size": words,
            "hidden_size": hidden,
            "num_hidden_layers": count(r"text_branch\.encoder\.layer\.\d+\."),
            "num_attention_heads": max(1, hidden // 64),  # RoBERTa's heads are 64 wide
            "intermediate_size": shape(text + "encoder.layer.0.intermediate.dense.weight")[0],
            "max_position_embeddings": shape(text + "embeddings.position_embeddings.weight")[0],
            "type_vocab_size": shape(text + "embeddings.token_type_embeddings.weight")[0],
            "layer_norm_eps": 1e-5,  # RoBERTa's; transformers' CLAP has another by default
        },
    )
