"""The bundled weights: their presence, their size and their sounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dear import AudioDEAR
from dear.cli import main
from dear.evaluation.judge.features import embed
from dear.judge.classifier import load_classifier
from dear.presets import preset
from training.engine.recipe import FurtherRecipe, Recipe, load_recipe

ROOT = Path(__file__).parent.parent
MIB = 2**20


@pytest.fixture(scope="module", params=["student", "teacher"])
def model(request):
    return AudioDEAR.from_pretrained(variant=request.param, device="cpu")


@pytest.fixture(scope="module")
def student():
    return AudioDEAR.from_pretrained(device="cpu")


def test_sizes_stay_within_the_promise(model):
    assert sum(p.numel() for p in model.model.parameters()) <= 8_000_000
    files = list((ROOT / "assets").rglob("*.safetensors"))
    assert {"student.safetensors", "teacher.safetensors", "vae.safetensors"} <= {file.name for file in files}
    assert max(file.stat().st_size for file in files) <= 16 * MIB
    assert sum(file.stat().st_size for file in files) <= 48 * MIB


def test_the_preset_is_what_ships(student):
    assert preset("mini") == student.config
    configs = ROOT / "training" / "configs"
    recipe = load_recipe(configs / "further.yaml", FurtherRecipe).changed(
        load_recipe(configs / "mini.yaml", Recipe).model
    )
    assert recipe.backbone == student.config.backbone
    assert {name: variant.head for name, variant in recipe.variants.items()} == {
        name: variant.head for name, variant in student.config.variants.items()
    }


def test_the_teacher_makes_ten_seconds_too():
    teacher = AudioDEAR.from_pretrained(variant="teacher", device="cpu")
    out = teacher.generate("heavy rain falling", seed=0, iterations=8, steps=10)
    assert out.waveform.shape == (1, 160_000)
    assert out.settings["variant"] == "teacher"


def test_ten_seconds_neither_silent_nor_clipped(student):
    out = student.generate(["a dog barking", "heavy rain falling"], seed=0)
    assert out.waveform.shape == (2, 160_000)
    assert out.sample_rate == 16_000
    for waveform in out.waveform.numpy():
        assert np.sqrt(np.square(waveform).mean()) > 1e-3
        assert (np.abs(waveform) >= 0.999).mean() < 1e-4


def test_a_seed_gives_the_same_sound_alone_and_in_a_batch(student):
    pair = student.generate(["waves on a beach", "a dog barking"], seed=6, iterations=4)
    alone = student.generate("a dog barking", seed=7, iterations=4)
    assert torch.equal(pair.order[1:], alone.order)
    torch.testing.assert_close(pair.tokens[1:], alone.tokens, rtol=0, atol=1e-3)


def test_a_batch_of_eight_gives_each_sound_as_alone(student):
    """Up to rounding: products of matrices of other sizes add in another order."""
    prompts = [
        "a dog barking", "heavy rain falling", "a crackling fire", "a helicopter", "waves on a beach",
        "a rooster crowing", "a clock ticking", "a chainsaw",
    ]  # fmt: skip
    batch = student.generate(prompts, seed=0, iterations=8)
    for i in (0, 3, 6):
        alone = student.generate(prompts[i], seed=i, iterations=8)
        assert (batch.sound[i] - alone.sound[0]).abs().max() < 1e-4 * alone.sound.abs().max()


def test_golden_tokens(student):
    """Any change of the numerics, from text encoder to head, shows here first."""
    out = student.generate("a dog barking", seed=0, iterations=2, cfg_scale=2.0, temperature=0.7)
    assert out.order[0, :16].tolist() == GOLDEN["order"]
    np.testing.assert_allclose(out.tokens[0, :4, :3].flatten(), GOLDEN["tokens"], atol=5e-3)


GOLDEN = {
    "order": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    "tokens": [-12.338, 0.892, -1.782, -10.92, 0.496, -1.622, -11.084, 1.268, -1.938, -10.832, 1.999, -2.099],
}


def test_the_classifier_hears_what_was_asked_for(student):
    """The bound is far below the measured accuracy and far above chance, which is a tenth."""
    classifier = load_classifier()
    prompts = json.loads((ROOT / "assets" / "eval_prompts.json").read_text())
    out = student.generate([prompts[label][0] for label in classifier.labels], seed=0, iterations=16)
    seen = embed(out.waveform, classifier.labels, classifier).probabilities.argmax(axis=1)
    assert (seen == np.arange(len(classifier.labels))).mean() >= 0.5


def test_the_command_line_writes_the_same_bytes_twice(tmp_path):
    for name in ("dog", "again"):
        arguments = ["generate", "a dog barking", "-o", str(tmp_path / f"{name}.wav"), "--seed", "0", "--device", "cpu"]
        assert main([*arguments, "--iterations", "8"]) == 0
    assert (tmp_path / "dog.wav").read_bytes() == (tmp_path / "again.wav").read_bytes()


def test_the_card_names_data_licences_figures_and_command():
    card = (ROOT / "assets" / "mini" / "README.md").read_text()
    for words in ("CC-BY", "CC0", "freesound", "python -m training.further", "accuracy", "FD"):
        assert words in card
    assert card.count("\n- ") == 235  # titles; some have several recordings
