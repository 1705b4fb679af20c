"""The whitening of the score of directions, from noise through the codec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factory import tiny_config, tiny_models

from dear.codec.mel import MelSpectrogram
from dear.config import Config
from dear.pipeline import AudioDEAR
from training.engine.directions import fit_directions, innovation_basis, noise_whitening


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


def test_what_adjacent_tokens_leave_open_of_noise_is_white_along_the_directions_of_innovations(bundled):
    """Other noise, whose regression on adjacent tokens is fitted anew."""
    mel = bundled.config.mel
    noise = 0.02 * torch.randn(32, mel.samples, generator=torch.Generator().manual_seed(1))
    tokens = bundled.vae.encode(MelSpectrogram(mel)(noise))[:, 4:-4] @ innovation_basis(bundled.vae, mel).T
    tokens = (tokens - tokens.mean(dim=(0, 1))).double()
    beside = torch.cat((tokens[:, :-2], tokens[:, 2:]), dim=2).flatten(0, 1)
    token = tokens[:, 1:-1].flatten(0, 1)
    left = torch.cov((token - beside @ torch.linalg.lstsq(beside, token).solution).T)
    assert left.diagonal().min() > 0.5 and left.diagonal().max() < 2
    assert (left - left.diagonal().diag()).abs().mean() < 0.05


def directed() -> Config:
    base = tiny_config()
    student = base.variants["student"]
    head = replace(student.head, directions=1.0, direction_from=4, innovations=1.0)
    return replace(base, variants={**base.variants, "student": replace(student, head=head)})


def test_only_heads_that_score_directions_are_fitted_and_only_once(bundled):
    config = replace(directed(), mel=bundled.config.mel, vae=bundled.config.vae)
    models = tiny_models(config)
    teacher = {name: value.clone() for name, value in models["teacher"].state_dict().items()}
    fit_directions(models["teacher"], bundled.vae)
    assert all(torch.equal(value, teacher[name]) for name, value in models["teacher"].state_dict().items())
    student = models["student"]
    fit_directions(student, bundled.vae)
    fitted = {
        "whitening": noise_whitening(bundled.vae, config.mel, 4),
        "innovation_basis": innovation_basis(bundled.vae, config.mel),
    }
    for name, matrix in fitted.items():
        assert torch.equal(getattr(student.head, name), matrix)
        getattr(student.head, name).mul_(2)
    fit_directions(student, bundled.vae)
    for name, matrix in fitted.items():
        assert torch.equal(getattr(student.head, name), 2 * matrix)
