"""Flan-T5 and CLAP at a size that runs in milliseconds, random, in the format in which the real ones are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

SENTENCE = "a dog barks while rain falls on the roof then waves crash and a rooster crows"


def tiny_t5(folder: Path, width: int = 8) -> Path:
    """A T5 of ``width`` (with its decoder, as on the Hub) over whole words and single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys(SENTENCE.split())]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=64, tie_word_embeddings=False, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def tiny_clap(folder: Path, fused: bool = True, width: int = 4) -> Path:
    """A ClapModel with embeddings of ``width`` values."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([SENTENCE], trainer)
    bpe.model.save(str(folder))
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fused else "rand_trunc")
    extractor.save_pretrained(folder)
    text = {
        "vocab_size": 300,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 16,
        "max_position_embeddings": 90,
        "layer_norm_eps": 1e-5,
    }
    audio = {
        "patch_embeds_hidden_size": 4,
        "hidden_size": 8,
        "depths": [1, 2],
        "num_attention_heads": [1, 2],
        "enable_fusion": fused,
        "fusion_type": "aff_2d" if fused else None,
        "aff_block_r": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ClapModel(ClapConfig(projection_dim=width, text_config=text, audio_config=audio))
        with torch.no_grad():  # initial weights give nearly the same embedding to everything
            for name, value in model.state_dict().items():
                if name.endswith("running_var"):
                    value.uniform_(0.5, 2)
                elif name.endswith("batch_norm.running_mean"):
                    value.uniform_(-40, -20)
                elif name.endswith("batch_norm.weight"):
                    value.uniform_(0.05, 0.15)
                elif value.is_floating_point() and "logit_scale" not in name:
                    value.normal_(1.0 if name.lower().endswith("norm.weight") else 0.0, 0.4)
    model.save_pretrained(folder)
    return folder


def laion_checkpoint(path: Path, model: ClapModel) -> Path:
    """The weights of ``model`` by LAION's names, with the further entries of a checkpoint of LAION's training."""
    names = {
        "text_model.": "text_branch.",
        "audio_model.audio_encoder.": "audio_branch.",
        "batch_norm.": "bn0.",
        "attention.output.dense.": "attn.proj.",
        "attention.self.relative": "attn.relative",
        "intermediate.dense.": "mlp.fc1.",
        "layernorm_before.": "norm1.",
        "layernorm_after.": "norm2.",
        "projection.linear1.": "projection.0.",
        "projection.linear2.": "projection.2.",
    }
    state, published = model.state_dict(), {}
    for name, value in state.items():
        if name.startswith("text_model.encoder."):  # RoBERTa's names in both
            published["text_branch." + name.removeprefix("text_model.")] = value
            continue
        if name.endswith(("token_type_ids", ".key.weight", ".key.bias", ".value.weight", ".value.bias")):
            continue
        if ".self.query." in name:
            value = torch.cat([state[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("attention.self.query", "attn.qkv")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name.startswith("audio_branch.layers.") and "attn" not in name:
            name = name.replace("output.dense.", "mlp.fc2.")
        published[name] = value
    published |= {
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.zeros(3, 1, 4),
        "audio_branch.logmel_extractor.melW": torch.zeros(3, 2),
        "audio_branch.layers.1.blocks.1.attn_mask": torch.zeros(4, 4),
        "audio_branch.tscam_conv.weight": torch.zeros(3, 8, 2, 3),
        "audio_branch.head.bias": torch.zeros(3),
        "text_transform.sequential.0.weight": torch.zeros(4, 4),
        "audio_transform.sequential.3.bias": torch.zeros(4),
    }
    state = {f"module.{name}": value for name, value in published.items()}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"lr": np.float64(1e-4)}, "best": np.float32(0.5)}, path)
    return path
