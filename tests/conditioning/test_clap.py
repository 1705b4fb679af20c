from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import laion_checkpoint, tiny_clap
from transformers import ClapFeatureExtractor, ClapModel

from dear.audio import resample
from dear.conditioning import EncoderError
from dear.conditioning.clap import find_checkpoint, load_clap
from dear.conditioning.clap_mel import ClapMel
from dear.conditioning.laion import load_mapped
from dear.conditioning.laion_module import LaionModule
from dear.files import sha256
from training.clap import compare, main

TEXTS = ["a dog barks", "rain falls on the roof, then waves crash " * 20, "🔥🐕"]


def sixteen_bit(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise at 48 kHz on the steps of 16-bit sound."""
    return np.random.default_rng(seed).integers(-9000, 9000, round(seconds * 48_000)) / 32767


def between(sound: np.ndarray) -> np.ndarray:
    """The same sound slightly above its steps, to which rounding towards zero returns it."""
    return sound + np.sign(sound) * 0.25 / 32767


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "unfused"])
def folder(request, tmp_path_factory) -> Path:
    """A tiny ClapModel as transformers publishes it, and beside it the same weights as LAION does."""
    folder = tiny_clap(tmp_path_factory.mktemp("clap"), fused=request.param)
    laion_checkpoint(folder / "laion.pt", ClapModel.from_pretrained(folder))
    return folder


@pytest.fixture(scope="module")
def clap(folder):
    return load_clap(str(folder))


def test_embeddings_are_those_of_transformers(folder, clap):
    model = ClapModel.from_pretrained(folder).eval()
    ids = [clap.tokenizer.encode(text).ids for text in TEXTS]
    assert [len(one) for one in ids][1] == 77 and ids[1][-1] == ids[0][-1] == model.config.text_config.eos_token_id
    got = clap.embed_text(TEXTS)
    for row, one in zip(got, ids, strict=True):  # each alone, without padding
        wanted = model.get_text_features(input_ids=torch.tensor([one])).pooler_output[0]
        torch.testing.assert_close(row, wanted, atol=1e-5, rtol=0)
    assert (got[0] - got[1]).abs().max() > 1e-3

    extractor = ClapFeatureExtractor.from_pretrained(folder)
    sound = sixteen_bit(3)
    features = extractor(sound, sampling_rate=48_000, return_tensors="pt").input_features.float()
    wanted = model.get_audio_features(input_features=features, is_longer=torch.tensor([[False]])).pooler_output
    torch.testing.assert_close(clap.embed_audio([between(sound)], 48_000), wanted, atol=1e-4, rtol=0)


def test_a_laion_checkpoint_gives_the_same_model(folder, clap):
    wanted = clap.model.state_dict()
    model = load_mapped(folder / "laion.pt")
    assert model.config.audio_config.enable_fusion == clap.mel.fused
    got = model.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    mapped = load_clap(str(folder / "laion.pt"))
    assert torch.equal(mapped.embed_text(TEXTS), clap.embed_text(TEXTS))
    assert mapped.digest == sha256(folder / "laion.pt") != clap.digest


def test_a_sound_has_one_embedding_among_others_and_alone(clap):
    sounds = [sixteen_bit(seconds)[::3] for seconds in (3.0, 10.5)]  # at 16 kHz; the second needs crops
    together = clap.embed_audio(sounds, 16_000)
    for row, sound in zip(together, sounds, strict=True):
        torch.testing.assert_close(row, clap.embed_audio([sound], 16_000)[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(row, clap.embed_audio([resample(sound, 1, 3)], 48_000)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(2))


def test_half_precision_is_for_texts(folder, clap):
    half = load_clap(str(folder), dtype=torch.bfloat16)
    assert half.model.text_model.dtype == torch.bfloat16
    got = half.embed_text(TEXTS[:1])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, clap.embed_text(TEXTS[:1]), atol=0.1, rtol=0)
    sound = [sixteen_bit(1)]
    assert torch.equal(half.embed_audio(sound, 48_000), clap.embed_audio(sound, 48_000))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("seconds", [0.7, 3.0, 10.0])
def test_spectrograms_are_those_of_the_published_front_end(fused, seconds):
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="fusion" if fused else "rand_trunc")
    sound = sixteen_bit(seconds)
    wanted = extractor(sound, sampling_rate=48_000, return_tensors="pt").input_features[0].float()
    got, longer = ClapMel(extractor, fused)(between(sound))
    assert not longer
    assert got.shape == wanted.shape == (4 if fused else 1, 1001, 64)
    torch.testing.assert_close(got, wanted, atol=0.02, rtol=0)  # dB


def test_long_sounds_are_fused_from_three_crops():
    extractor = ClapFeatureExtractor(frequency_min=50)
    mel = ClapMel(extractor, fused=True)
    sound = sixteen_bit(10.02)  # 1003 frames: one place for each of three crops of 1001
    wanted = extractor(sound, sampling_rate=48_000, return_tensors="pt").input_features[0].float()
    got, longer = mel(between(sound))
    assert longer
    torch.testing.assert_close(got, wanted, atol=0.02, rtol=0)
    got, longer = mel(sixteen_bit(10.24))
    again, _ = mel(sixteen_bit(10.24))
    assert longer and torch.equal(got, again)
    short, longer = mel(sixteen_bit(10.005))  # less than a frame longer than ten seconds
    assert not longer and short.shape == (4, 1001, 64)


def test_long_sounds_lose_both_ends_without_fusion():
    mel = ClapMel(ClapFeatureExtractor(frequency_min=50), fused=False)
    sound = sixteen_bit(11)
    got, longer = mel(sound)
    assert not longer
    assert torch.equal(got, mel(sound[24_000:-24_000])[0])


def damaged(folder: Path, tmp_path: Path, change) -> str:
    data = torch.load(folder / "laion.pt", weights_only=False)
    change(data["state_dict"])
    torch.save(data, tmp_path / "damaged.pt")
    return str(tmp_path / "damaged.pt")


def test_every_parameter_must_be_in_the_checkpoint_and_known(folder, tmp_path):
    name = "module.audio_branch.layers.0.blocks.0.mlp.fc2.weight"
    with pytest.raises(EncoderError, match=r"holds unknown decoder\.weight \(1 by"):
        load_clap(damaged(folder, tmp_path, lambda state: state.update({"module.decoder.weight": torch.ones(1)})))
    with pytest.raises(EncoderError, match=r"lacks audio_model\.audio_encoder\.layers\.0\.blocks\.0\.output\.dense\.w"):
        load_clap(damaged(folder, tmp_path, lambda state: state.pop(name)))
    with pytest.raises(EncoderError, match="has other shapes of .*output.dense.weight"):
        load_clap(damaged(folder, tmp_path, lambda state: state.update({name: torch.ones(2, 2)})))
    with pytest.raises(EncoderError, match="must be a CLAP of HTSAT and RoBERTa, but lacks"):
        load_clap(damaged(folder, tmp_path, lambda state: state.pop("module.audio_branch.patch_embed.proj.weight")))


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


def test_a_checkpoint_runs_no_code(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {}, "optimizer": Code()}, path)
    with pytest.raises(EncoderError, match=r"cannot open .*evil\.pt as tensors alone"):
        load_mapped(path)
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(EncoderError, match="cannot open"):
        load_mapped(path)
    path.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(EncoderError, match="cannot open"):
        load_mapped(path)


@pytest.mark.usefixtures("offline")
def test_absent_files_are_named(folder, tmp_path):
    with pytest.raises(EncoderError, match=r"630k\.pt from https://huggingface\.co/lukewys/laion_clap .*check the net"):
        find_checkpoint("lukewys/laion_clap/630k.pt")
    with pytest.raises(EncoderError, match=r"there is no file /nowhere/clap\.pt"):
        find_checkpoint("/nowhere/clap.pt")
    with pytest.raises(EncoderError, match=r"tokenizer\.json from https://huggingface\.co/FacebookAI/roberta-base"):
        load_clap(str(shutil.copy(folder / "laion.pt", tmp_path / "alone.pt")))
    with pytest.raises(EncoderError, match=r"must hold config\.json, .*missing: config\.json, preprocessor"):
        load_clap(str(tmp_path))
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(EncoderError, match=r"must hold model\.safetensors or pytorch_model\.bin, but has neither"):
        load_clap(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(EncoderError, match=r"cannot load .*model\.safetensors"):
        load_clap(str(tmp_path))


def test_laions_package_without_torchvision_is_refused_with_a_sentence(folder, monkeypatch):
    """Also where the package itself is absent, as on Python 3.13."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("laion_clap", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = (
        r"laion_clap cannot load .*laion\.pt \(ModuleNotFoundError: .*; it needs pip install laion-clap torchvision "
    )
    with pytest.raises(EncoderError, match=message):
        LaionModule(folder / "laion.pt")


def test_older_weight_files_load_too(folder, clap, tmp_path):
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        shutil.copy(folder / name, tmp_path)
    torch.save(clap.model.state_dict(), tmp_path / "pytorch_model.bin")
    older = load_clap(str(tmp_path))
    assert torch.equal(older.embed_text(TEXTS), clap.embed_text(TEXTS))
    torch.save({"logit_scale_a": torch.ones(())}, tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin lacks audio_model"):
        load_clap(str(tmp_path))


def test_comparison_tells_other_weights(folder, clap, tmp_path, capsys):
    sounds = {"noise": sixteen_bit(1)}
    same = compare(clap, load_clap(str(folder / "laion.pt")), TEXTS[:1], sounds)
    assert list(same) == ["a dog barks", "noise"]
    # Equal up to rounding: on some processors that depends on where in memory the weights lie.
    assert all(abs(cosine - 1) < 1e-6 and difference < 1e-6 for cosine, difference in same.values())
    other = load_clap(str(folder))
    other.model.text_projection.linear1.weight.data.neg_()
    differences = compare(clap, other, TEXTS[:1], sounds)
    assert differences["a dog barks"][1] > 0.01 and differences["noise"][1] < 1e-6
    assert main(["--checkpoint", str(tmp_path / "none.pt")]) == 2
    assert "there is no file" in capsys.readouterr().err
