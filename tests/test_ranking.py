"""The best of several candidates, by a judge of two classes and by the bundled one."""

from __future__ import annotations

import math

import pytest
import torch
from factory import tiny_checkpoint

from dear import AudioDEAR, cli
from dear.judge import Heard
from dear.ranking import default_judge, keep_best, labels, scores
from dear.vocabulary import save_vocabulary


class Ears:
    """A judge that hears rain in a waveform that crosses zero often, and a dog in any other."""

    name, hears, digest, measured = "ears", "waveforms", "0" * 12, {}
    names, exclusive = ("rain", "dog"), True
    sample_rate, samples = 16_000, 10_000

    def hear(self, waveform):
        rain = (waveform.sign().diff(dim=1) != 0).float().mean(dim=1)
        return Heard(rain[:, None], torch.stack((rain, 1 - rain), dim=1))


@pytest.fixture(scope="module")
def model(known, tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("ranked") / "tiny")
    save_vocabulary(folder, known)
    return AudioDEAR.from_pretrained(folder, device="cpu")


def test_scores_are_mean_log_probabilities_of_what_the_prompt_names():
    slow, fast = torch.ones(5_000), torch.ones(5_000)
    fast[::2] = -1
    found = scores(Ears(), torch.stack((slow, fast)), ["dog"])
    least = math.log(1e-6)  # of rain in the first and of a dog in the second, both of probability 0
    assert found.tolist() == pytest.approx([0.0, least], abs=1e-6)
    assert scores(Ears(), slow[None], ["dog", "rain"]).item() == pytest.approx(least / 2)


def test_the_best_candidate_is_kept_and_its_seed_alone_makes_it(model):
    all_of_them = model.generate(["a dog barking", "rain falling"], seed=10, num_samples=6)
    out = model.generate(["a dog barking", "rain falling"], seed=10, num_samples=2, candidates=3, judge=Ears())
    for row in range(4):
        group = all_of_them.sound[3 * row : 3 * row + 3]
        best = 3 * row + int(scores(Ears(), group, ["dog" if row < 2 else "rain"]).argmax())
        assert (out.sound[row] == all_of_them.sound[best]).all()
        assert (out.mel[row] == all_of_them.mel[best]).all() and (out.order[row] == all_of_them.order[best]).all()
        assert out.seeds[row] == all_of_them.seeds[best] == out[row].seed
        torch.testing.assert_close(model.generate(out.prompts[row], seed=out.seeds[row]).tokens[0], out.tokens[row])
    assert (out.settings["candidates"], out.settings["judge"]) == (3, "ears 000000000000")
    assert "candidates" not in all_of_them.settings


def test_parts_of_a_composition_count_alike_and_what_the_judge_does_not_know_is_refused(model):
    def asked(prompt, judge, rate=16_000):
        return labels(judge, prompt, model.nearest(prompt), rate)

    assert asked("a dog barks, then rain falls", Ears()) == ["dog", "rain"]
    assert asked("a dog barks and then a dog barks", Ears()) == ["dog"]
    for prompt in ("a piano playing", "a dog barks, then a piano plays", "the silence of a library in spring"):
        with pytest.raises(ValueError, match=f"candidates must be 1 for '{prompt}': ears can rank only rain, dog$"):
            asked(prompt, Ears())
    with pytest.raises(ValueError, match="for sounds of 48000 Hz: ears hears those of 16000 Hz"):
        asked("a dog barking", Ears(), 48_000)
    calls = []
    with pytest.raises(ValueError, match="SoundClassifier can rank only dog, rooster, rain, sea waves"):
        model.generate("a piano playing", candidates=2, progress=lambda *_: calls.append(1))
    assert not calls  # before any work


def test_the_number_of_candidates_is_checked(model, student):
    for candidates, most in ((0, 64), (65, 64), (1.5, 64)):
        with pytest.raises(ValueError, match=f"candidates must be a whole number from 1 to {most}, got"):
            model.generate("rain", candidates=candidates)
    with pytest.raises(ValueError, match="candidates must be a whole number from 1 to 8, got 9"):
        model.generate("rain", candidates=9, num_samples=8)
    with pytest.raises(ValueError, match="nearest needs a checkpoint with a vocabulary"):
        student.generate("rain", candidates=2)


def test_the_bundled_judge_chooses_for_the_command_line(known, tmp_path, capsys):
    folder = tmp_path / "tiny"
    tiny_checkpoint(folder)
    save_vocabulary(folder, known)
    command = ["generate", "rain falling", "-o", f"{tmp_path}/rain.wav", "--seed", "5", "--model", str(folder)]
    assert cli.main([*command, "--candidates", "3"]) == 0
    seed = int(capsys.readouterr().out.split("seed ")[1].split(",")[0])
    own = AudioDEAR.from_pretrained(folder, device="cpu")
    out = own.generate("rain falling", seed=5, num_samples=3)
    assert seed == keep_best(out, 3, default_judge(), [["rain"]]).seed
    assert cli.main([*command, "--candidates", "99"]) == 2
    assert capsys.readouterr().err == "candidates must be a whole number from 1 to 64, got 99\n"
