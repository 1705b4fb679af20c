"""The contract of every text encoder in the registry. A new one is tested with its defaults, without a change here."""

import pytest
import torch
from encoders import tiny_clap, tiny_t5

from dear.conditioning import ENCODERS, EncoderError, build_text_encoder
from dear.conditioning.paper import PaperConfig

PROMPTS = ["a dog barks", "rain falls on the roof then waves crash", "x"]


@pytest.fixture(scope="module", params=ENCODERS)
def config(request, tmp_path_factory):
    if request.param != "paper":
        return ENCODERS[request.param].Config()
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("t5", "clap"):
        (folder / name).mkdir()
    t5, clap = tiny_t5(folder / "t5"), tiny_clap(folder / "clap")
    return PaperConfig(dim=8, max_tokens=12, t5=str(t5), clap=str(clap))


@pytest.fixture(scope="module")
def text_encoder(config):
    return build_text_encoder(config)


def test_the_class_states_what_other_rooms_need(config, text_encoder):
    kind = ENCODERS[config.kind]
    assert kind.Config.kind == config.kind and kind.title
    assert type(text_encoder) is kind and text_encoder.dim == config.dim


def test_real_tokens_come_first_and_padding_is_zero(config, text_encoder):
    out = text_encoder.encode(PROMPTS)
    assert out.tokens.shape == (len(PROMPTS), out.mask.shape[1], config.dim) and out.tokens.dtype == torch.float32
    assert 1 <= out.mask.shape[1] <= config.max_tokens
    assert out.mask[:, 0].all() and (out.mask.long().diff(dim=1) <= 0).all()
    assert out.tokens.isfinite().all() and not out.tokens[~out.mask].any()


def test_an_item_does_not_depend_on_its_batch(text_encoder):
    together = text_encoder.encode(PROMPTS)
    for item, prompt in enumerate(PROMPTS):
        alone = text_encoder.encode([prompt])
        count = int(alone.mask.sum())
        assert int(together.mask[item].sum()) == count
        torch.testing.assert_close(alone.tokens[0, :count], together.tokens[item, :count], rtol=1e-4, atol=1e-4)


def test_prompts_differ_and_repeat(text_encoder):
    first, again = text_encoder.encode(PROMPTS), text_encoder.encode(PROMPTS)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.allclose(first.tokens[0, 0], first.tokens[1, 0])


def test_long_prompts_stay_within_the_length(config, text_encoder):
    assert text_encoder.encode(["dog " * 240]).mask.shape[1] <= config.max_tokens


@pytest.mark.parametrize("prompts", [[], [""], ["x" * 1001], [7]])
def test_bad_prompts_are_refused(text_encoder, prompts):
    with pytest.raises(ValueError, match="prompt"):
        text_encoder.encode(prompts)


def test_the_digest_tells_settings_apart(config, text_encoder):
    other = build_text_encoder(type(config)(**vars(config) | {"max_tokens": config.max_tokens - 1}))
    assert text_encoder.digest == build_text_encoder(config).digest != other.digest


def test_sounds_are_encoded_or_refused(config, text_encoder):
    sounds = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    try:
        out = text_encoder.encode_audio(sounds, 16_000)
    except EncoderError:
        return
    assert out.tokens.shape == (2, out.mask.shape[1], config.dim) and out.mask.all()
