import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from factory import tiny_config

from dear.audio import AudioError, read_sound
from dear.config import MelConfig
from dear.evaluation.compositions import load_compositions, score_compositions
from dear.evaluation.compositions import main as compose
from dear.evaluation.flicker import FLICKER
from dear.evaluation.generation import generate_each, generate_for_scoring, load_prompts
from dear.evaluation.judge import Heard, JudgeError
from dear.evaluation.judge.answers import choices
from dear.evaluation.judge.features import SoundsError, embed, find_sounds, fit
from dear.evaluation.judge.metrics import frechet_distance
from dear.evaluation.score import embed_reference, main, score_embedding, score_waveforms, table
from dear.judge.classifier import ClassifierConfig, SoundClassifier, save_classifier
from dear.vocabulary import load_vocabulary
from training.classifier import export_prompts
from training.data.captions import prompts
from training.engine.recipe import RECIPES, Recipe, load_recipe

LABELS = ("low", "high")
MEL = MelConfig(sample_rate=4000, n_fft=256, hop_length=40, n_mels=32, f_max=2000, frames=64, samples=2500)


@pytest.fixture(scope="module")
def classifier():
    """A small network whose last layer is fitted to tell low tones from high ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SoundClassifier(ClassifierConfig(labels=LABELS, mel=MEL, channels=(8, 16), width=16)).eval()
    model.requires_grad_(False)
    rng = np.random.default_rng(1)
    sounds = [tone(label, rng) for label in LABELS for _ in range(12)]
    features = embed(sounds, [label for label in LABELS for _ in range(12)], model).features
    sides = np.repeat([1.0, -1.0], 12)
    middle, spread = features.mean(axis=0), features.std() + 1e-6
    weights = np.linalg.lstsq((features - middle) / spread, sides, rcond=1e-2)[0] / spread
    model.head.weight[:] = torch.from_numpy(np.stack((weights, -weights)) * 3)
    model.head.bias[:] = -model.head.weight @ torch.from_numpy(middle)
    return model


def tone(label, rng, seconds=0.4):
    time = np.arange(int(seconds * MEL.sample_rate)) / MEL.sample_rate
    pitch = rng.uniform(150, 250) if label == "low" else rng.uniform(1200, 1700)
    return (0.5 * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture
def recordings(tmp_path):
    """A folder in the format of clips.csv: two folds of six clips per label, at another rate, in stereo."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "real"
    (folder / "audio").mkdir(parents=True)
    rows = []
    for fold in (1, 4):
        for label in LABELS:
            for i in range(6):
                name = f"{fold}-{label}-{i}.wav"
                sound = np.repeat(tone(label, rng), 2)
                soundfile.write(folder / "audio" / name, np.stack((sound, sound), 1), 2 * MEL.sample_rate)
                rows.append((name, fold, label))
    with open(folder / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "fold", "label"), *rows])
    return folder


def test_short_sounds_are_looped_and_long_ones_cropped():
    assert fit(np.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fit(torch.arange(9), 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(SoundsError, match="S at least 1"):
        fit(np.zeros(0), 4)


def test_files_are_read_in_mono_at_the_rate_asked_for(tmp_path):
    time = np.arange(8000) / 8000
    sound = np.stack((np.sin(2 * np.pi * 300 * time), np.zeros(8000)), 1) * 0.5
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    found = read_sound(tmp_path / "a.wav", 4000)
    assert found.dtype == np.float32 and len(found) == 4000
    wanted = 0.25 * np.sin(2 * np.pi * 300 * np.arange(4000) / 4000)
    assert np.abs(found - wanted)[100:-100].max() < 0.01
    (tmp_path / "b.wav").write_bytes(b"not a sound")
    with pytest.raises(AudioError, match=r"b\.wav can't be read as a sound"):
        read_sound(tmp_path / "b.wav", 4000)


def test_labels_come_from_subfolders_or_manifests(tmp_path, recordings):
    (tmp_path / "s" / "low").mkdir(parents=True)
    soundfile.write(tmp_path / "s" / "low" / "x.wav", np.zeros(10), 4000)
    (tmp_path / "s" / "low" / "notes.txt").write_text("no sound")
    (sound,) = find_sounds(tmp_path / "s")
    assert (sound.path.name, sound.label, sound.fold) == ("x.wav", "low", None)
    (tmp_path / "s" / "manifest.json").write_text(json.dumps({"low/x.wav": "high"}))
    assert [s.label for s in find_sounds(tmp_path / "s")] == ["high"]
    listed = find_sounds(recordings)
    assert len(listed) == 24 and {s.fold for s in listed} == {1, 4} and all(s.path.is_file() for s in listed)
    other = tmp_path / "other.csv"
    other.write_text("filename,category\nlow/x.wav,low\n")
    assert [s.label for s in find_sounds(tmp_path / "s", other)] == ["low"]


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("file,label\nlow/x.wav,low\nmissing.wav,low\n", "missing.wav is listed but lies neither in"),
        ("file,label\nlow/x.wav,\n", "line 2 must have a file and a label"),
        ("file,label,fold\nlow/x.wav,low,four\n", "whole number as fold, got 'four'"),
    ],
)
def test_bad_manifests_are_named(tmp_path, manifest, words):
    (tmp_path / "low").mkdir()
    soundfile.write(tmp_path / "low" / "x.wav", np.zeros(10), 4000)
    (tmp_path / "manifest.csv").write_text(manifest)
    with pytest.raises(SoundsError, match=words):
        find_sounds(tmp_path)


def test_embedding_holds_a_batch_at_a_time_and_is_the_same_for_any_batch(classifier):
    rng = np.random.default_rng(0)
    sounds = [tone("low", rng) for _ in range(5)]
    pulled = []

    def lazily():
        for sound in sounds:
            pulled.append(1)
            yield sound

    found = embed(lazily(), ["low"] * 5, classifier, batch=2)
    assert len(pulled) == 5 and found.features.shape == (5, 16)
    whole = embed(torch.from_numpy(np.stack(sounds)), ["low"] * 5, classifier, batch=64)
    np.testing.assert_allclose(found.features, whole.features, atol=1e-4)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(SoundsError, match="one label per waveform, 5, got 4"):
        embed(sounds, ["low"] * 4, classifier)
    with pytest.raises(SoundsError, match="finite"):
        embed([np.full(10, np.nan)], ["low"], classifier)


def test_scores_of_right_and_wrong_sounds(classifier, recordings):
    reference = embed_reference(recordings, classifier)
    rng = np.random.default_rng(5)
    sounds = np.stack([tone(label, rng) for label in LABELS for _ in range(8)])
    labels = [label for label in LABELS for _ in range(8)]
    right = score_waveforms(sounds, labels, classifier, reference)
    assert right["accuracy"] == 1 and right["per_class"] == {"low": 1, "high": 1}
    assert right["clips"] == 16 and right["candidates"] == 1 and right["reference"]["clips"] == 12
    wrong = score_waveforms(sounds, labels[::-1], classifier, reference)
    assert wrong["accuracy"] == 0 and wrong["heard_as"] == {"low": {"high": 8}, "high": {"low": 8}}
    assert wrong["kl"] > right["kl"] + 0.5 and wrong["fd"] == right["fd"]
    noise = score_waveforms(rng.normal(size=(16, 2000)) * 0.1, labels, classifier, reference)
    assert noise["fd"] > right["fd"] and noise["is"] <= 2
    json.dumps(right, allow_nan=False)


def test_the_floor_is_held_out_against_the_rest_and_a_lone_fold_has_none(classifier, recordings):
    reference = embed_reference(recordings, classifier, fold=4)
    others = embed_reference(recordings, classifier, fold=1)
    assert reference.floor == pytest.approx(
        frechet_distance(reference.embedding.features, others.embedding.features), rel=1e-6
    )
    rows = (recordings / "clips.csv").read_text().splitlines()
    (recordings / "clips.csv").write_text("\n".join(rows[:1] + [row for row in rows if ",4," in row]))
    assert embed_reference(recordings, classifier, fold=4).floor is None
    with pytest.raises(SoundsError, match=r"fold must be one of \[4\]"):
        embed_reference(recordings, classifier, fold=9)


def test_a_judge_of_waveforms_scores_too_without_kl_and_is(recordings, classifier):
    class Ears(SoundClassifier):
        """The same network as a tagger of four names, of which two mean the same label."""

        name, hears, exclusive, names = "ears", "waveforms", False, ("Low", "High", "Bass", "Treble")

        def hear(self, waveform):
            features, probabilities = super().hear(waveform)
            return Heard(features, torch.cat((probabilities, probabilities / 2), dim=1))

    ears = Ears(classifier.config)
    ears.load_state_dict(classifier.state_dict())
    answers = {"low": ["Low", "Bass"], "high": ["Treble", "High"]}
    reference = embed_reference(recordings, ears, answers=answers)
    sounds = [tone(label, np.random.default_rng(i)) for label in LABELS for i in range(4)]
    chosen = choices(ears, LABELS, answers)
    result = score_waveforms(sounds, ["low"] * 4 + ["high"] * 4, ears, reference, chosen)
    assert result["accuracy"] == result["top5"] == 1 and result["choices"] == 2 and result["score"] > 0.5
    assert result["kl"] is None and result["is"] is None and result["fd"] is not None
    assert result["judge"]["name"] == "ears" and result["judge"]["names"] == 4
    assert "ears" in table(result) and "KL" not in table(result)
    with pytest.raises(JudgeError, match="labels must be among low, high, got 'cat'"):
        score_waveforms(sounds[:1], ["cat"], classifier)


def test_without_a_reference_and_with_a_missing_label(classifier, recordings):
    rng = np.random.default_rng(0)
    found = embed([tone("low", rng)], ["low"], classifier)
    alone = score_embedding(found, classifier)
    assert alone["fd"] is None and alone["kl"] is None and alone["is"] == pytest.approx(1)
    rows = (recordings / "clips.csv").read_text().splitlines()
    (recordings / "clips.csv").write_text("\n".join(row for row in rows if "-low-" not in row))
    with pytest.raises(SoundsError, match="got none of low"):
        score_embedding(found, classifier, embed_reference(recordings, classifier))


class Tones:
    """A pipeline that turns the words low and high into such tones, by the seed of each item."""

    def __init__(self):
        self.calls = []

    def generate_many(self, prompts, **options):
        self.calls.append((prompts, options))
        for seed, text in enumerate(prompts, start=options["seed"]):
            wave = tone("low" if "low" in text else "high", np.random.default_rng(seed))
            yield type("Output", (), {"sound": torch.from_numpy(wave)[None]})


def test_generation_for_scoring_goes_through_the_wordings_of_each_label(classifier):
    prompts = {"low": ["a low hum", "low down"], "high": ["a high whistle"]}
    pipeline = Tones()
    waves, labels = generate_for_scoring(pipeline, prompts, 3, batch=4, seed=7, cfg_scale=2.0)
    assert labels == ["low"] * 3 + ["high"] * 3 and waves.shape == (6, 1600)
    asked = ["a low hum", "low down", "a low hum", "a high whistle", "a high whistle", "a high whistle"]
    assert pipeline.calls == [(asked, {"batch": 4, "seed": 7, "cfg_scale": 2.0})]
    assert score_waveforms(waves, labels, classifier)["accuracy"] == 1
    with pytest.raises(SoundsError, match="clips_per_class must be at least 1, got 0"):
        generate_for_scoring(pipeline, prompts, 0)
    with pytest.raises(SoundsError, match="prompts must hold"):
        generate_for_scoring(pipeline, {"low": []})


def test_prompts_are_read_or_refused(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"low": ["a low hum"]}))
    assert load_prompts(path) == {"low": ["a low hum"]}
    for text in ("[]", '{"low": []}', '{"low": [1]}', "{"):
        path.write_text(text)
        with pytest.raises(SoundsError, match=r"p\.json"):
            load_prompts(path)


def test_command_line(tmp_path, classifier, recordings, capsys):
    save_classifier(tmp_path / "c", classifier, {"held_out_recordings": 1.0})
    arguments = ["--sounds", str(recordings), "--reference", str(recordings), "--classifier", str(tmp_path / "c")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["clips"] == 24 and result["accuracy"] > 0.9 and result["floor_fd"] > 0
    assert set(result["texture"]) == {"low", "high"}
    assert set(result["texture"]["low"]) == {*FLICKER, "envelope_db", "harmonic_db"}
    assert result["texture"]["low"]["harmonic_db"] > 10  # tones in noise
    assert len(result["judge"]["digest"]) == 12 and result["judge"]["measured"] == {"held_out_recordings": 1.0}
    assert f"accuracy  {result['accuracy']:6.1%}  of 24 clips, one candidate each" in err and "floor" in err


def test_command_line_on_a_checkpoint(tmp_path, tiny_folder, capsys):
    labels = ("rain", "dog")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ClassifierConfig(labels=labels, mel=tiny_config().mel, channels=(8, 16), width=16)
        save_classifier(tmp_path / "c", SoundClassifier(config))
    prompts = {"rain": ["rain on a roof"], "cat": ["a cat"], "dog": ["a dog barking", "a hound"]}
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    arguments = ["--model", str(tiny_folder), "--device", "cpu", "--prompts", str(tmp_path / "p.json")]
    arguments += ["--clips-per-class", "3", "--batch", "4", "--classifier", str(tmp_path / "c"), "--iterations", "2"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["clips"] == 6 and set(result["per_class"]) == {"rain", "dog"}
    made_by = result["made_by"]
    assert made_by["nameless"] == ["cat"]  # the classifier has no name for it
    assert (made_by["name"], made_by["variant"], made_by["seed"]) == ("tiny", "student", 0)
    assert made_by["options"]["iterations"] == 2 and made_by["options"]["cfg_scale"] == 2.0
    assert main([*arguments, "--cfg-scale", "1000"]) == 2
    assert "cfg_scale" in capsys.readouterr().err


def test_the_prompts_in_assets_are_those_held_back_from_training(tmp_path):
    export_prompts(tmp_path, load_recipe(RECIPES / "mini.yaml", Recipe).scenes.sounds)
    known = load_vocabulary(RECIPES.parents[1] / "assets" / "mini").sounds
    assert load_prompts() == {label: list(prompts(label)[1]) for label in known}
    assert load_prompts().items() >= load_prompts(tmp_path / "eval_prompts.json").items()
    assert load_compositions() == [tuple(row) for row in json.loads((tmp_path / "eval_compositions.json").read_text())]
    assert len({row[0] for row in load_compositions()}) == len({row[1:] for row in load_compositions()}) == 90


def test_beginning_and_end_are_judged_apart_and_in_order(classifier):
    rng = np.random.default_rng(0)
    pairs = [("low", "high"), ("high", "low"), ("low", "high"), ("low", "high")]
    heard = [("low", "high"), ("high", "low"), ("high", "low"), ("low", "low")]
    waves = []
    for first, second in heard:
        begins, middle, ends = (tone(label, rng, 2.0) for label in (first, "low", second))
        cuts = [round(share * len(ends)) for share in (0.36, 0.6)]
        waves.append(np.concatenate((begins[: cuts[0]], middle[slice(*cuts)], ends[cuts[1] :])))
    assert score_compositions(waves, pairs, classifier) == {
        "clips": 4,
        "first": 0.75,  # all but the swapped one
        "second": 0.5,
        "both": 0.5,
        "same": 0.5,  # the last two
    }
    with pytest.raises(SoundsError, match="S at least 1"):
        score_compositions(np.zeros((1, 1)), pairs[:1], classifier)


def test_clips_are_generated_in_order_though_prompts_repeat(classifier):
    waves = generate_each(Tones(), ["a low hum", "high", "a low hum"], batch=2, seed=5)
    alone = [generate_each(Tones(), [text], seed=5 + i) for i, text in enumerate(["a low hum", "high", "a low hum"])]
    assert torch.equal(waves, torch.cat(alone)) and not torch.equal(waves[0], waves[2])


def test_compositions_on_the_command_line(tiny_folder, tmp_path, monkeypatch, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = SoundClassifier(
            ClassifierConfig(labels=("rain", "dog"), mel=tiny_config().mel, channels=(8, 16), width=16)
        )
    monkeypatch.setattr("dear.evaluation.compositions.load_judge", lambda text: judge)
    rows = [("rain, then a dog", "rain", "dog"), ("a dog before rain", "dog", "rain")]
    monkeypatch.setattr("dear.evaluation.compositions.load_compositions", lambda: rows)
    assert compose(["--model", str(tiny_folder), "--device", "cpu", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["clips"] == 2 and 0 <= result["both"] <= min(result["first"], result["second"])
    assert (result["made_by"]["seed"], result["made_by"]["variant"]) == (3, "student")
    assert "2 clips of two sounds" in err
    assert compose(["--model", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sounds", "nowhere"], "nowhere is not a folder of sounds"),
        (["--sounds", "x", "--model", "y"], "--model has no effect with --sounds"),
        (["--sounds", "x", "--reference", "nowhere"], "nowhere is not a folder of sounds"),
    ],
)
def test_bad_arguments_end_in_one_sentence(tmp_path, classifier, capsys, arguments, words):
    save_classifier(tmp_path / "c", classifier)
    assert main([*arguments, "--classifier", str(tmp_path / "c")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.strip().splitlines()) == 1
