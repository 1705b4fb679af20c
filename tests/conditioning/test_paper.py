"""The paper's text encoder, Flan-T5 with CLAP, at a tiny size."""

from __future__ import annotations

import gc
import hashlib
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import tiny_clap, tiny_t5
from factory import tiny_checkpoint, tiny_config
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel, T5Tokenizer

from dear.conditioning import EncoderError, build_text_encoder
from dear.conditioning.paper import PaperConfig, PaperEncoder
from dear.config import ConfigError
from dear.pipeline import AudioDEAR

PAPER_PROMPTS = ["a dog barks", "rain falls on the roof then waves crash", "a dog " * 30, "🔥 the unknown letters"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> PaperConfig:
    """The paper's configuration, with tiny encoders of its format: E = 8, T = 12."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("t5", "clap"):
        (folder / name).mkdir()
    return PaperConfig(
        dim=8,
        max_tokens=12,
        t5=str(tiny_t5(folder / "t5")),
        clap=str(tiny_clap(folder / "clap")),
    )


@pytest.fixture(scope="module")
def paper(published) -> PaperEncoder:
    return build_text_encoder(published)


def test_the_papers_form_is_t5_states_then_the_clap_embedding(published, paper):
    out = paper.encode(PAPER_PROMPTS)
    assert out.tokens.shape == (len(PAPER_PROMPTS), 12, 8)
    assert out.tokens.dtype == torch.float32
    assert not out.tokens.is_inference() and not out.tokens.requires_grad
    t5 = T5EncoderModel.from_pretrained(published.t5).eval()
    tokenizer = T5Tokenizer.from_pretrained(published.t5)
    embeddings = paper.clap.embed_text(PAPER_PROMPTS)
    for i, prompt in enumerate(PAPER_PROMPTS):
        ids = tokenizer(prompt, truncation=True, max_length=11, return_tensors="pt").input_ids
        count = ids.shape[1]
        states = t5(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(out.tokens[i, :count], states, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.tokens[i, count], embeddings[i].repeat(2), atol=1e-6, rtol=0)
        assert not out.tokens[i, count + 1 :].any()
        assert out.mask[i].tolist() == [True] * (count + 1) + [False] * (11 - count)
    assert out.mask.sum(1).tolist() == [5, 10, 12, 12]  # the last two lose their end


def test_the_paper_encoder_is_batch_invariant_and_safe_between_threads(paper):
    batch = paper.encode(PAPER_PROMPTS)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda prompt: paper.encode([f" {prompt} "]), PAPER_PROMPTS * 2))
    for i, one in enumerate(alone):
        i %= len(PAPER_PROMPTS)
        torch.testing.assert_close(one.tokens[0], batch.tokens[i], atol=1e-5, rtol=0)
        assert torch.equal(one.mask[0], batch.mask[i])
    for bad in ([], [""], [3]):
        with pytest.raises(ValueError, match="prompt"):
            paper.encode(bad)


def test_the_ablations_of_table_6(published, paper):
    both = paper.encode(PAPER_PROMPTS)
    t5 = build_text_encoder(replace(published, text_embeddings="t5"))
    out = t5.encode(PAPER_PROMPTS)
    assert out.tokens.shape == (4, 11, 8)
    assert torch.equal(out.mask.sum(1), both.mask.sum(1) - 1)
    for i, count in enumerate(out.mask.sum(1)):
        assert torch.equal(out.tokens[i, :count], both.tokens[i, :count])
    assert t5.clap is None
    with pytest.raises(EncoderError, match="'t5' loads no CLAP.*audio=True"):
        t5.encode_audio([np.zeros(1600)], 16_000)
    with_audio = build_text_encoder(replace(published, text_embeddings="t5"), audio=True)
    assert torch.equal(with_audio.encode(PAPER_PROMPTS).tokens, out.tokens)
    assert with_audio.encode_audio([np.zeros(1600)], 16_000).tokens.shape == (1, 12, 8)

    clap = build_text_encoder(replace(published, text_embeddings="clap"))
    out = clap.encode(PAPER_PROMPTS)
    assert clap.t5 is None
    assert out.mask.all()
    assert torch.equal(out.tokens, paper.clap.embed_text(PAPER_PROMPTS).repeat(1, 2)[:, None].expand(4, 12, 8))
    assert len({one.digest for one in (paper, t5, with_audio, clap)}) == 4


def test_sounds_without_captions_repeat_their_embedding(paper):
    sounds = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    out = paper.encode_audio(sounds, 16_000)
    assert out.tokens.shape == (2, 12, 8)
    assert out.mask.all()
    assert not out.tokens.requires_grad
    embeddings = paper.clap.embed_audio([sound.double().numpy() for sound in sounds], 16_000)
    torch.testing.assert_close(out.tokens, embeddings.repeat(1, 2)[:, None].expand(2, 12, 8), atol=1e-6, rtol=0)
    assert (out.tokens[0] - out.tokens[1]).abs().max() > 1e-4
    for waveforms, rate, message in [
        (torch.full((1, 100), torch.nan), 16_000, "peak of nan"),
        (torch.zeros(1, 2, 100), 16_000, "waveforms must be mono"),
        ([], 16_000, "at least one sound"),
        (sounds, 0, "sample_rate must be a whole number from 1000 to 384000, got 0"),
        (sounds, 16_000.5, "sample_rate must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            paper.encode_audio(waveforms, rate)


def test_half_precision_stays_close(published, paper):
    half = build_text_encoder(published, dtype=torch.bfloat16)
    out, wanted = half.encode(PAPER_PROMPTS), paper.encode(PAPER_PROMPTS)
    assert out.tokens.dtype == torch.float32
    assert torch.equal(out.mask, wanted.mask)
    torch.testing.assert_close(out.tokens, wanted.tokens, atol=0.25, rtol=0)
    assert half.digest != paper.digest


def test_digest_names_weights_and_settings(published, paper, tmp_path):
    assert build_text_encoder(published).digest == paper.digest
    assert paper.t5.digest == hashlib.sha256((Path(published.t5) / "model.safetensors").read_bytes()).hexdigest()
    other = tiny_clap(tmp_path)
    weights = load_file(other / "model.safetensors")
    weights["logit_scale_a"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert build_text_encoder(replace(published, clap=str(other))).digest != paper.digest
    assert build_text_encoder(replace(published, max_tokens=10)).digest != paper.digest


def test_sizes_must_agree_with_the_encoders(published, tmp_path):
    with pytest.raises(ConfigError, match=r"conditioning\.dim must be 8, the width of .*, got 1024"):
        build_text_encoder(replace(published, dim=1024))
    clap = replace(published, clap=str(tiny_clap(tmp_path, width=3)))
    with pytest.raises(ConfigError, match=r"conditioning\.dim must be a multiple of 3, the width of .*, got 8"):
        build_text_encoder(clap)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text_embeddings": "both"}, "conditioning.text_embeddings must be one of clap\\+t5, t5, clap, got 'both'"),
        ({"clap_backend": "numpy"}, "conditioning.clap_backend must be one of transformers, laion_clap"),
        ({"clap_backend": "laion_clap", "clap": "laion/clap-htsat-fused"}, "conditioning.clap must be a .pt file"),
    ],
)
def test_settings_out_of_range_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PaperConfig(**options)


@pytest.mark.usefixtures("offline")
def test_absent_encoders_are_named_with_what_to_do(published, tmp_path):
    with pytest.raises(EncoderError, match=r"conditioning\.t5: could not download .*/google/flan-t5-large"):
        build_text_encoder(PaperConfig(dim=1024, max_tokens=78))
    with pytest.raises(EncoderError, match=r"could not download 630k-audioset-fusion-best\.pt .*lukewys/laion_c"):
        build_text_encoder(replace(published, clap=PaperConfig().clap))
    with pytest.raises(EncoderError, match=r"conditioning\.t5 must be a folder or owner/name on the Hub, got './gone'"):
        build_text_encoder(replace(published, t5="./gone"))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(published.t5) / name, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match=r"conditioning\.t5: .*tokenizer\.json is damaged"):
        build_text_encoder(replace(published, t5=str(tmp_path)))


def test_dropped_encoders_leave_memory(published):
    encoder = build_text_encoder(published)
    conditioning = encoder.encode(["a dog"])
    models = [weakref.ref(encoder.t5.model), weakref.ref(encoder.clap.model)]
    del encoder
    gc.collect()
    assert [model() for model in models] == [None, None]
    assert conditioning.tokens.isfinite().all()


def test_a_checkpoint_with_the_papers_conditioning_generates(published, tmp_path):
    folder = tiny_checkpoint(tmp_path / "paper", replace(tiny_config(), conditioning=published))
    model = AudioDEAR.from_pretrained(folder, device="cpu")
    first, second = (model.generate(prompt, seed=0).tokens for prompt in ("a dog barks", "rain falls"))
    assert first.isfinite().all()
    assert not torch.equal(first, second)
