"""Training a checkpoint further, from recordings to a new checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from factory import tiny_checkpoint, tiny_config, tiny_models
from reproduction import HELD_OUT, SOUNDS

from dear.checkpoint import load_config
from dear.config import ConfigError
from dear.pipeline import AudioDEAR
from dear.vocabulary import KnownSound, Vocabulary, load_vocabulary, save_vocabulary
from training.engine.recipe import FurtherRecipe, load_recipe
from training.engine.schedule import TrainConfig
from training.further import blended, grown, joined, main

RECIPE = {
    "backbone": {"neighbours": 1},
    "head": {"channels": 1.0, "direct_context": True},
    "sampling": {"temperature": 0.5},
    "blend": 0.5,
    "scenes": {"count": 12, "validation": 4, "held_out": HELD_OUT, "sounds": [*SOUNDS], "recaption": True},
    "masking": {"ratio": [0.3, 1.0], "shares": "cosine"},
    "train": {"steps": 3, "batch_size": 4, "lr": 1e-3, "warmup": 1, "save_every": 2, "validate_every": 3},
}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A checkpoint that knows a cat."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("start") / "tiny")
    save_vocabulary(folder, Vocabulary(0.5, {"animals": {"cat": KnownSound(("a cat meowing",), ("a cat meows",))}}))
    return folder


@pytest.fixture(scope="module")
def further_recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("further") / "further.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


TRAIN = TrainConfig(steps=1, batch_size=1, lr=1e-3, warmup=0)


def run(clips, recipe: Path, start: Path, out: Path) -> int:
    options = ["--recipe", str(recipe), "--start", str(start), "--out", str(out), "--workers", "1"]
    return main(["--clips", *clips, *options])


@pytest.fixture(scope="module")
def trained(clips, further_recipe, start, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("further") / "out"
    assert run(clips, further_recipe, start, out) == 0
    return out


def sound(checkpoint: Path, variant: str) -> torch.Tensor:
    model = AudioDEAR.from_pretrained(checkpoint, variant=variant, device="cpu")
    return model.generate("a dog barking", seed=0, temperature=1.0).waveform


def test_the_variant_changes_and_the_others_keep_their_sound(trained, start):
    new = trained / "checkpoint"
    assert not torch.equal(sound(new, "student"), sound(start, "student"))
    torch.testing.assert_close(sound(new, "teacher"), sound(start, "teacher"), rtol=0, atol=1e-5)


def test_the_checkpoint_states_its_settings_sounds_and_authors(trained):
    new = trained / "checkpoint"
    config = load_config(new)
    assert config.backbone.neighbours == 1
    student = config.variants["student"]
    assert (student.head.channels, student.head.direct_context, student.sampling.temperature) == (1.0, True, 0.5)
    vocabulary = load_vocabulary(new)
    assert set(vocabulary.sounds) == {"cat", *SOUNDS}
    assert len(vocabulary.embeddings.vectors) == len(vocabulary.entries)
    card = (new / "README.md").read_text()
    assert card.startswith("# tiny\n")
    assert "## Trained further" in card and "python -m training.further --clips" in card
    assert "3 more steps of 4 scenes on 12 scenes of 5 sounds, composed from 15 recordings" in card
    assert "sampling: `temperature: 0.5`. 50% of each weight are those after the training" in card
    assert all(f'"tone {number}" by nobody' in card for number in range(len(SOUNDS)))


def test_a_finished_run_is_not_repeated_and_one_from_other_weights_is_refused(
    trained, clips, further_recipe, start, tmp_path, capsys
):
    before = {path: path.read_bytes() for path in (trained / "checkpoint").glob("*.safetensors")}
    assert run(clips, further_recipe, start, trained) == 0
    assert {path: path.read_bytes() for path in before} == before
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    (other / "codec" / "vae.safetensors").write_bytes((start / "codec" / "vae.safetensors").read_bytes())
    assert run(clips, further_recipe, other, trained) == 2
    assert "start" in capsys.readouterr().err


def test_a_grown_model_gives_the_output_of_the_smaller_one():
    config = tiny_config()
    recipe = FurtherRecipe(TRAIN, backbone={"neighbours": 2}, head={"direct_context": True})
    small = tiny_models(config)["student"]
    large = grown(recipe.changed(config), "student", small.state_dict()).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 8, 16, generator=generator)
    context = torch.randn(2, 8, 32, generator=generator)
    known = torch.tensor([[True, False] * 4] * 2)
    (inputs,) = large.head_inputs([context], tokens, known, torch.arange(8).expand(2, -1))
    noise = torch.randn(16, 16, generator=generator)
    torch.testing.assert_close(large.head(noise, inputs.flatten(0, 1)), small.head(noise, context.flatten(0, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"width": 48}}, r"context_in\.weight of its student is \[32, 32\], and \[48, 32\] with them"),
        ({"backbone": {"depth": 1}}, r"of its student is \[.*\], and nothing with them"),
    ],
)
def test_settings_that_lose_weights_are_refused(changes, message):
    config = tiny_config()
    wanted = FurtherRecipe(TRAIN, **changes).changed(config)
    with pytest.raises(ConfigError, match=message):
        grown(wanted, "student", tiny_models(config)["student"].state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "pupil"}, "variant must be one of student, teacher, got 'pupil'"),
        ({"head": {"colour": 1}}, r"unknown field variants\.student\.head\.colour"),
        ({"sampling": {"temperature": "hot"}}, r"variants\.student\.sampling\.temperature must be of type float"),
    ],
)
def test_settings_that_the_checkpoint_does_not_have_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        FurtherRecipe(TRAIN, **changes).changed(tiny_config())


def test_a_sound_that_is_trained_again_has_its_new_wordings():
    def known(text: str) -> KnownSound:
        return KnownSound((text,), (f"{text}!",))

    old = Vocabulary(0.4, {"pets": {"dog": known("old dog")}, "animals": {"cat": known("cat")}})
    new = Vocabulary(0.6, {"animals": {"dog": known("new dog")}})
    both = joined(old, new)
    assert both == replace(new, threshold=0.4, families={"animals": {"cat": known("cat"), "dog": known("new dog")}})
    assert joined(None, new) == new


def test_the_bundled_recipe_fits_the_bundled_model():
    root = Path(__file__).parents[2]
    recipe = load_recipe(root / "training" / "configs" / "further.yaml", FurtherRecipe)
    assert recipe.changed(load_config(root / "assets" / "mini")).length == 128
    assert json.dumps(recipe.head)  # plain data, for the card


def test_weights_are_blended_with_those_of_the_start():
    model, other = tiny_models(tiny_config())["student"], tiny_models(tiny_config(), seed=1)["student"]
    start = {name: value.clone() for name, value in other.state_dict().items()}
    trained = {name: value.clone() for name, value in model.named_parameters()}
    blended(model, start, 0.75)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, 0.75 * trained[name] + 0.25 * start[name])
    blended(model, start, 1.0)
    with pytest.raises(ConfigError, match="blend must be above 0 and at most 1, got 0"):
        FurtherRecipe(TRAIN, blend=0)
