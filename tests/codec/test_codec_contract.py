"""The contract of every codec and vocoder in the registries. A new kind is tested without a change here."""

from unittest.mock import patch

import pytest
import torch
from small_codecs import NARROW, SMALL

from dear.codec import CODECS, VOCODERS, audioldm, build_vae, build_vocoder
from dear.config import MelConfig

MEL = MelConfig(frames=64, samples=10_000)


@pytest.fixture
def mel():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, MEL.frames, MEL.n_mels, generator=generator) - 5).clamp_min(-11.5)


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    with patch.dict(audioldm.AUTOENCODER, SMALL):
        return build_vae(CODECS[request.param].Config(), MEL).eval()


@pytest.fixture(scope="module", params=VOCODERS)
def vocoder(request):
    with patch.dict(audioldm.HIFIGAN, NARROW):
        return build_vocoder(VOCODERS[request.param].Config(), MEL).eval()


@pytest.mark.parametrize("registry", [CODECS, VOCODERS], ids=["codecs", "vocoders"])
def test_each_kind_has_the_settings_of_its_name(registry):
    for kind, cls in registry.items():
        assert cls.Config.kind == cls.Config().kind == kind
        assert not cls.files or cls.Config().source


@torch.no_grad()
def test_a_codec_encodes_and_decodes_whole_patches(codec, mel):
    length, dim = codec.token_shape
    tokens = codec.encode(mel)
    assert tokens.shape == (2, length, dim) and tokens.isfinite().all()
    decoded = codec.decode(tokens)
    assert decoded.shape == mel.shape and decoded.isfinite().all()
    assert decoded.min() >= torch.log(torch.tensor(MEL.floor)) - 1e-4
    assert codec.latents(tokens).numel() == tokens.numel()
    half = codec.encode(mel[:, : MEL.frames // 2])
    assert half.shape == (2, length // 2, dim)
    with pytest.raises(ValueError, match="mel must be"):
        codec.encode(mel[:, : MEL.frames - 1])


@torch.no_grad()
def test_an_item_of_a_codec_does_not_depend_on_its_batch(codec, mel):
    tokens = codec.encode(mel)
    torch.testing.assert_close(codec.encode(mel[1:]), tokens[1:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(codec.decode(tokens[1:]), codec.decode(tokens)[1:], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_vocoder_gives_the_same_bounded_samples_for_the_same_mel(vocoder, mel):
    waveform = vocoder(mel)
    assert waveform.shape == (2, MEL.frames * MEL.hop_length) and waveform.dtype == torch.float32
    assert waveform.abs().max() <= 1
    assert torch.equal(waveform, vocoder(mel))
    torch.testing.assert_close(vocoder(mel[1:]), waveform[1:], rtol=1e-3, atol=1e-4)
    assert vocoder.draft(mel).shape == waveform.shape
    assert not (vocoder.weightless and vocoder.state_dict())
