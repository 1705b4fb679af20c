"""The whitening of the score of directions, from noise through the codec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factory import tiny_config, tiny_models

from dear.codec.mel import MelSpectrogram
from dear.config import Config
from dear.pipeline import AudioDEAR
from training.engine.directions import fit_directions, noise_whitening


@pytest.fixture(scope="module")
def bundled():
    return AudioDEAR.from_pretrained(device="cpu")


def covariance(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cov(tokens.flatten(0, 1).T)


def test_noise_of_another_colour_and_level_is_white_in_the_bundled_codec(bundled):
    """A first-order filter gives noise with more energy at low frequencies."""
    mel, start = bundled.config.mel, 16
    white = torch.randn(32, mel.samples, generator=torch.Generator().manual_seed(1))
    brown = 0.01 * (white[:, 1:] + white[:, :-1] + 0.5 * torch.nn.functional.pad(white, (1, 0))[:, :-2])
    whitening = noise_whitening(bundled.vae, mel, start)
    for noise in (white, torch.nn.functional.pad(brown, (1, 0))):
        tokens = bundled.vae.encode(MelSpectrogram(mel)(noise))[:, 4:-4, start:]
        before, after = covariance(tokens), covariance(tokens @ whitening.T)
        levels = torch.linalg.eigvalsh(after)
        assert levels.min() > 0.5 and levels.max() < 2
        spread = torch.linalg.eigvalsh(before)
        assert spread.max() / spread.min() > 3 * levels.max() / levels.min()


def directed() -> Config:
    base = tiny_config()
    student = base.variants["student"]
    head = replace(student.head, directions=1.0, direction_from=4)
    return replace(base, variants={**base.variants, "student": replace(student, head=head)})


def test_only_heads_that_score_directions_are_fitted_and_only_once(bundled):
    config = replace(directed(), mel=bundled.config.mel, vae=bundled.config.vae)
    models = tiny_models(config)
    teacher = {name: value.clone() for name, value in models["teacher"].state_dict().items()}
    fit_directions(models["teacher"], bundled.vae)
    assert all(torch.equal(value, teacher[name]) for name, value in models["teacher"].state_dict().items())
    student = models["student"]
    fit_directions(student, bundled.vae)
    assert torch.equal(student.head.whitening, noise_whitening(bundled.vae, config.mel, 4))
    student.head.whitening.mul_(2)
    before = student.head.whitening.clone()
    fit_directions(student, bundled.vae)
    assert torch.equal(student.head.whitening, before)
