"""What a checkpoint knows: the vocabulary beside its weights, and the wordings nearest to a prompt."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from factory import tiny_checkpoint

from dear import AudioDEAR, cli
from dear.checkpoint import CheckpointError, fingerprint
from dear.config import ConfigError
from dear.vocabulary import Embeddings, KnownSound, Vocabulary, load_vocabulary, save_vocabulary
from training.data.captions import prompts
from training.data.vocabulary import SOUNDS, known_sounds
from training.vocabulary import main

SMALL = known_sounds(["dog", "rain", "piano"])


@pytest.fixture(scope="module")
def folder(known, tmp_path_factory):
    folder = tiny_checkpoint(tmp_path_factory.mktemp("known") / "tiny")
    save_vocabulary(folder, known)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AudioDEAR.from_pretrained(folder, device="cpu")


def test_a_vocabulary_holds_the_wordings_of_training_and_no_others():
    assert list(SMALL.families) == ["animals", "weather_and_water", "music"]
    texts = {text for text, label in SMALL.entries if label == "piano"}
    piano = SOUNDS["piano"]
    assert set(piano.wordings.nouns) | set(piano.wordings.clauses) | set(piano.wordings.free) <= texts
    assert all(set(each.wordings) <= texts for each in piano.attributes.values())
    assert not texts & set(piano.wordings.held_back)
    assert len(SMALL.entries) == len(set(SMALL.entries))


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a dog barks, then rain falls", ["a dog barks", "rain falls"]),
        ("First a dog barks and then rain falls.", ["a dog barks", "rain falls"]),
        ("rain falls while a piano plays; a dog barks", ["rain falls", "a piano plays", "a dog barks"]),
        ("a dog barking followed by rain", ["a dog barking", "rain"]),
        ("the band stands on a hand", ["the band stands on a hand"]),
        ("then", ["then"]),
    ],
)
def test_compositions_are_cut_into_their_parts(prompt, parts):
    assert SMALL.parts(prompt) == parts


def test_the_nearest_wordings_are_found_and_unknown_prompts_and_parts_are_named(model):
    assert model.vocabulary == SMALL
    known = model.nearest("a dog barking")
    assert known.known and known.sentence() == ""
    assert dataclasses.astuple(known.wordings[0]) == ("a dog barking", "dog", pytest.approx(1, abs=1e-3))
    assert len({wording.label for wording in known.wordings}) == 3
    assert [each.similarity for each in known.wordings] == sorted((w.similarity for w in known.wordings), reverse=True)
    unknown = model.nearest("a submarine", count=2)
    assert not unknown.known and len(unknown.wordings) == 2
    names = ", ".join(repr(wording.text) for wording in unknown.wordings)
    assert unknown.sentence() == f"nothing like 'a submarine' was in training; nearest: {names}"
    half = model.nearest("a dog barks, then a zipper is opened")
    assert [part.known for part in half.parts] == [True, False]
    assert half.wordings == half.parts[1].wordings and "'a zipper is opened'" in half.sentence()
    both = model.nearest("a dog barks, then rain falls")
    assert both.known and [part.wordings[0].label for part in both.parts] == ["dog", "rain"]


def test_an_output_carries_what_was_known_of_each_of_its_prompts(model):
    prompts = ["a dog barking", "a zipper, then rain falls"]
    out = model.generate(prompts, iterations=1, num_samples=2, seed=0)
    assert [each.known for each in out.nearest] == [True, True, False, False]
    assert out.nearest[2] == model.nearest(prompts[1])
    assert out[2].nearest == [out.nearest[2]]
    *partial, last = model.stream("a dog barking", iterations=2, seed=0)
    assert [each.nearest for each in partial] == [[]] and last.nearest[0].known


def test_the_command_line_says_in_one_line_what_is_not_known(folder, model, tmp_path, capsys):
    for prompt, line in (("a dog barking", ""), ("a submarine", model.nearest("a submarine").sentence() + "\n")):
        arguments = ["generate", prompt, "-o", str(tmp_path / "a.wav"), "--model", str(folder), "--device", "cpu"]
        assert cli.main(arguments) == 0
        assert capsys.readouterr().err == line


def test_without_a_vocabulary_nothing_is_claimed(tiny_folder):
    model = AudioDEAR.from_pretrained(tiny_folder, device="cpu")
    assert model.generate("a submarine", iterations=1, seed=0).nearest == []
    with pytest.raises(ValueError, match="nearest needs a checkpoint with a vocabulary, got 'tiny'"):
        model.nearest("a submarine")


def test_stored_embeddings_are_used_for_their_own_encoder_alone(folder, tmp_path, monkeypatch):
    stored = load_vocabulary(folder).embeddings
    fast = AudioDEAR.from_pretrained(folder, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(fast.text_encoder, "embed", None)  # not computed again
        assert fast.nearest("a dog barking").known
    copy, dog = tiny_checkpoint(tmp_path / "tiny"), known_sounds(["dog"])
    count = len(dog.entries)
    save_vocabulary(copy, dataclasses.replace(dog, embeddings=Embeddings(torch.zeros(count, 384), "another encoder")))
    slow = AudioDEAR.from_pretrained(copy, device="cpu")
    assert slow.nearest("a dog barking").known and dog.entries == SMALL.entries[:count]
    assert torch.allclose(stored.vectors[:count], slow.synthesizer.wordings, atol=1e-3)


def test_it_travels_with_the_checkpoint_and_leaves_the_digest_of_the_weights_alone(model, tiny_folder, tmp_path, known):
    model.save_pretrained(tmp_path / "copy")
    assert load_vocabulary(tmp_path / "copy") == SMALL
    save_vocabulary(tmp_path / "copy", SMALL)
    before = fingerprint(tmp_path / "copy")
    save_vocabulary(tmp_path / "copy", known)
    assert fingerprint(tmp_path / "copy") == before
    assert load_vocabulary(tiny_folder) is None


def test_bad_files_are_named(tmp_path):
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    (folder / "sounds.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"sounds.json is no vocabulary: Vocabulary must be an object"):
        load_vocabulary(tmp_path)
    with pytest.raises(ConfigError, match="families must hold 1 to 50,000 wordings, got 0"):
        Vocabulary(0.6, {})
    with pytest.raises(ConfigError, match="hum must have nouns and clauses"):
        Vocabulary(0.6, {"noise": {"hum": KnownSound(("a hum",), ())}})
    save_vocabulary(tmp_path, dataclasses.replace(SMALL, embeddings=Embeddings(torch.zeros(2, 3), "")))
    with pytest.raises(CheckpointError, match=r"embeddings.safetensors must hold embeddings \[\d+, E\], got \[2, 3\]"):
        load_vocabulary(tmp_path)
    (folder / "embeddings.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="embeddings.safetensors is truncated or damaged"):
        load_vocabulary(tmp_path)


def test_the_command_writes_and_measures(tiny_folder, tmp_path, capsys):
    folder = tiny_checkpoint(tmp_path / "tiny")
    assert main([str(folder), "--sounds", "dog", "rain", "--prompts", str(tmp_path / "unseen.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| threshold | held-back wordings (") and len(lines) == 9
    shares = [float(cell.strip(" %|")) for cell in lines[-1].split("|")[2:5]]
    assert shares[1] < shares[2]  # plain prompts of these sounds are flagged less often than others
    assert set(json.loads((folder / "vocabulary" / "sounds.json").read_text())["families"]) == {
        "animals", "weather_and_water",
    }  # fmt: skip
    assert load_vocabulary(folder).embeddings.vectors.shape[1] == 384
    unseen = json.loads((tmp_path / "unseen.json").read_text())
    assert unseen["dog"] == ["dog barking in the yard", *prompts("dog")[1]]
    assert not set(unseen["rain"]) & set(prompts("rain")[0])
