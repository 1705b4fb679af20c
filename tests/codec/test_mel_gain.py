"""The mel-gain vocoder reproduces the given mel, is deterministic, and is finite at the extremes."""

import math

import pytest
import torch

from dear.codec import VOCODERS, build_vocoder
from dear.codec.mel import MelSpectrogram
from dear.codec.mel_gain import MelGain, MelGainConfig
from dear.config import ConfigError, MelConfig

MEL = MelConfig()


@pytest.fixture(scope="module")
def vocoder() -> MelGain:
    return build_vocoder(MelGainConfig(iterations=24, momentum=0.9), MEL)


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    noise = 0.1 * torch.randn(2, 32000, generator=torch.Generator().manual_seed(1))
    return MelSpectrogram(MEL)(noise)


def test_is_registered_without_weights(vocoder):
    assert VOCODERS["mel-gain"] is type(vocoder)
    assert vocoder.state_dict() == {}


def test_iterations_approach_the_mel_and_a_draft_takes_a_quarter(vocoder, mel):
    def error(wave: torch.Tensor) -> float:
        return (MelSpectrogram(MEL)(wave) - mel).abs().mean().item()

    whole, draft = error(vocoder(mel)), error(vocoder.draft(mel))
    shaped = error(build_vocoder(MelGainConfig(iterations=1, momentum=0.0), MEL)(mel))
    assert whole < 0.05 < draft < shaped


def test_is_deterministic_and_independent_of_the_batch(vocoder, mel):
    together = vocoder(mel)
    assert together.shape == (2, 32000)
    assert torch.equal(together, vocoder(mel))
    torch.testing.assert_close(vocoder(mel[1:])[0], together[1], atol=1e-4, rtol=0)


def test_silence_full_scale_and_a_pure_tone_stay_finite(vocoder):
    silent = vocoder(torch.full((1, 200, 64), math.log(MEL.floor)))
    assert silent.abs().max() < 1e-3
    loud = vocoder(torch.full((1, 200, 64), 5.0))
    assert loud.isfinite().all() and loud.abs().max() <= 1
    tone = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(32000) / 16000)[None]
    sung = vocoder(MelSpectrogram(MEL)(tone))
    peak = torch.fft.rfft(sung[0]).abs().argmax().item() / 2  # Hz: two seconds
    assert sung.isfinite().all() and abs(peak - 440) < 40


def test_a_momentum_that_may_diverge_is_refused():
    with pytest.raises(ConfigError, match=r"momentum must be .* to 0.9, got 0.95"):
        MelGainConfig(momentum=0.95)
