"""The networks of the paper's metrics, in the layout of their published weights, against their authors' code."""

import hashlib

import numpy as np
import pytest
import soundfile
import torch
from encoders import tiny_clap
from published_networks import cnn14_weights, vggish_weights

from dear.audio import AudioError
from dear.evaluation.judge import EMBEDDERS, JUDGES, JudgeError, load_embedder
from dear.evaluation.judge.features import SoundsError
from dear.evaluation.judge.panns import Cnn14
from dear.evaluation.judge.reading import PANNS, PLAIN, RESAMPLERS, VGGISH, Reading, read_waveform, resample_by
from dear.evaluation.judge.vggish import VGGish
from dear.evaluation.judge.weights import find_weights


def sound(count):
    """A decaying tone in noise [count], as it was given to the authors' code."""
    time = np.arange(count) / 16_000
    noise = np.random.default_rng(0).normal(size=count)
    return torch.tensor(0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-time) + 0.02 * noise, dtype=torch.float32)


@pytest.fixture
def sources(tmp_path):
    """What each kind of embedder is loaded from."""
    # As the authors saved it: the state beside a counter.
    torch.save({"iteration": 1, "model": cnn14_weights()}, tmp_path / "Cnn14_16k_mAP=0.438.pth")
    torch.save(vggish_weights(), tmp_path / "vggish-1.pth")
    (tmp_path / "clap").mkdir()
    return {
        "panns": f"panns:{tmp_path / 'Cnn14_16k_mAP=0.438.pth'}",
        "vggish": f"vggish:{tmp_path / 'vggish-1.pth'}",
        "clap": f"clap:{tiny_clap(tmp_path / 'clap')}",
        "classifier": "classifier",
    }


@pytest.mark.parametrize("kind", [*EMBEDDERS, "classifier"])
def test_the_contract_of_every_embedder(sources, kind):
    embedder = load_embedder(sources[kind])
    assert embedder.name and len(embedder.digest) == 12 and isinstance(embedder.reading, Reading)
    waveform = sound(2 * embedder.sample_rate)
    features, logits = embedder.embed(waveform)
    assert features.dtype == torch.float32 and features.ndim == 2 and features.isfinite().all()
    assert len(features) == (2 if kind == "vggish" else 1)
    assert (logits is None) == (kind in ("vggish", "clap"))
    assert logits is None or (logits.ndim == 1 and logits.isfinite().all())
    torch.testing.assert_close(embedder.embed(waveform.clone()).features, features, rtol=0, atol=0)
    assert embedder.embed(torch.zeros(2 * embedder.sample_rate)).features.isfinite().all()
    if kind == "clap":
        texts = embedder.embed_text(["a dog barks", "rain"])
        assert texts.shape == (2, features.shape[1])
        torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))


def test_logits_of_judges_give_their_probabilities_back(sources):
    for text in ("classifier", sources["panns"]):
        features, logits = load_embedder(text).embed(sound(160_000))
        if text == "classifier":
            heard = load_embedder(text).judge.hear(sound(160_000)[None])
            torch.testing.assert_close(logits.softmax(0), heard.probabilities[0], rtol=1e-4, atol=1e-6)
        else:
            heard = Cnn14(cnn14_weights(), "x").hear(sound(160_000)[None])
            torch.testing.assert_close(logits.sigmoid(), heard.probabilities[0])
        torch.testing.assert_close(features, heard.features)


def test_cnn14_is_that_of_audioldm_eval():
    # models.Cnn14 of audioldm_eval 0.0.3 with these weights; it pads no sound of this length.
    features, logits = Cnn14(cnn14_weights(), "x").embed(sound(40_000))
    wanted = [1.865856409, 0.0, 2.012631893, 0.0, 0.528158665, 1.306121230, 0.0, 0.0]
    np.testing.assert_allclose(features[0], wanted, rtol=0, atol=1e-5)
    wanted = [-0.157080024, -0.426948965, -1.238140702, -1.333850503, 0.080198348]
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)


def test_vggish_is_that_of_torchvggish():
    # harritaylor/torchvggish with these weights, as audioldm_eval uses it: no last ReLU, no postprocessing.
    features, _ = VGGish(vggish_weights(), "x").embed(sound(40_000))
    wanted = [
        [0.777624428, -0.419615000, 0.512477636, 0.002490014, 0.803921878, 0.139472812, -0.780690014, 0.752100348],
        [0.946303129, -0.465886831, 0.639319658, 0.089562431, 0.689619124, 0.139131695, -0.594243109, 0.925869703],
    ]
    np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-5)


def test_cnn14_hears_what_torchlibrosa_computes():
    """Golden values of torchlibrosa 0.1 with the same filters; importing it takes 25 s."""
    wanted = [
        [8.89530, 11.19335, 8.99557, 8.32227, 10.00698, 12.17370, 11.62689, 11.46195],
        [0.69251, 6.63030, 7.43215, 7.09279, 2.06627, 5.15929, 4.25541, 6.76999],
        [0.72217, 2.77534, 1.23447, 0.01484, 1.41798, 3.67782, 3.18730, 3.04116],
    ]
    mel = Cnn14(cnn14_weights(), "x").log_mel(sound(16_000)[None])
    assert mel.shape == (1, 101, 64)
    torch.testing.assert_close(mel[0, [0, 50, 100], ::9], torch.tensor(wanted), rtol=1e-5, atol=1e-4)
    # All values count here, not only those of three frames.
    assert (float(mel.mean()), float(mel.std())) == pytest.approx((5.606282, 3.470988), abs=1e-5)


def test_short_and_long_sounds():
    vggish = VGGish(vggish_weights(), "x")
    assert vggish.embed(sound(15_600)).features.shape == (1, 8)
    assert vggish.embed(sound(160_000)).features.shape == (10, 8)
    with pytest.raises(SoundsError, match=r"at least 0\.975 s, got 0\.974938 s"):
        vggish.embed(sound(15_599))
    torch.testing.assert_close(vggish.embed(sound(40_000)).features[:1], vggish.embed(sound(15_600)).features)


@pytest.mark.parametrize(
    ("network", "weights"), [(Cnn14, cnn14_weights), (VGGish, vggish_weights)], ids=["cnn14", "vggish"]
)
def test_other_weights_are_named(network, weights):
    state = weights()
    name = next(name for name in state if name.endswith("weight"))
    with pytest.raises(JudgeError, match=f"got none named '{name}'"):
        network({key: value for key, value in state.items() if key != name}, "x")
    with pytest.raises(JudgeError, match="got more.weight, too"):
        network(state | {"more.weight": torch.zeros(1)}, "x")


def test_weights_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(JudgeError, match="names must be 5, one for each class, got 2"):
        Cnn14(cnn14_weights(), "x", ("a", "b"))
    state = vggish_weights()
    state["embeddings.0.weight"] = torch.zeros(16, 10)
    with pytest.raises(JudgeError, match=r"embeddings\.0 of VGGish must take 192 values, got 10"):
        VGGish(state, "x")
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(JudgeError, match=r"a\.pth is not a file of weights"):
        load_embedder(f"vggish:{tmp_path / 'a.pth'}")


@pytest.mark.parametrize("text", ["ear", "panns", "vggish:", ""])
def test_unknown_embedders_are_named(text):
    with pytest.raises(JudgeError, match=r"^an embedder must .*got"):
        load_embedder(text)
    assert "classifier" in JUDGES


def test_published_weights_are_downloaded_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save(vggish_weights(), tmp_path / "there.pth")
    digest = hashlib.sha256((tmp_path / "there.pth").read_bytes()).hexdigest()
    address = (tmp_path / "there.pth").as_uri()
    with pytest.raises(JudgeError, match=r"could not download file.*fetch it yourself"):
        find_weights("published", address, "vggish.pth", "0" * 8)
    path = find_weights("published", address, "vggish.pth", digest[:8])
    assert path == tmp_path / "hub" / "checkpoints" / "vggish.pth"
    (tmp_path / "there.pth").unlink()
    assert find_weights("published", address, "vggish.pth", digest[:8]) == path
    with pytest.raises(JudgeError, match="could not download"):
        find_weights("published", address, "other.pth")
    assert find_weights("elsewhere.pth", address, "vggish.pth").name == "elsewhere.pth"


# Samples 0, 1, 50, 80 and 158 of torchaudio.functional.resample 2.13.0 and resampy.resample 0.4.3 at 16 kHz.
RESAMPLED = [
    (
        8_000,
        [-0.233298386, -0.146640983, 0.061362132, -0.002207167, -0.011118509],
        [-0.245844396, -0.147749775, 0.075734315, -0.025774203, -0.006678082],
    ),
    (
        22_050,
        [0.038519305, -0.033122814, 0.216332965, -0.047262626, 0.135977114],
        [0.038478182, -0.031294637, 0.181998845, -0.023321630, 0.118612175],
    ),
    (
        44_100,
        [0.005658880, 0.000802637, -0.032605219, -0.000410533, -0.066521169],
        [0.015847760, -0.011979701, -0.032694977, -0.008772984, -0.083713241],
    ),
]


@pytest.mark.parametrize(("rate", "torchaudio", "resampy"), RESAMPLED)
def test_sounds_are_resampled_as_other_packages_do(rate, torchaudio, resampy):
    waveform = torch.tensor(np.random.default_rng(rate).normal(size=-(-rate // 100)) * 0.1)
    for name, wanted in (("torchaudio", torchaudio), ("resampy", resampy)):
        found = resample_by(waveform, rate, 16_000, RESAMPLERS[name])
        np.testing.assert_allclose(found[[0, 1, 50, 80, 158]], wanted, rtol=0, atol=2e-6)
    assert resample_by(waveform, rate, rate, RESAMPLERS["resampy"]) is waveform


def test_files_are_read_as_published_results_were(tmp_path):
    left, right = np.full(20_000, 0.25), np.linspace(-0.5, 0.5, 20_000)
    soundfile.write(tmp_path / "a.wav", np.stack((left, right), axis=1), 16_000, "FLOAT")
    panns = read_waveform(tmp_path / "a.wav", 16_000, PANNS)
    assert panns.shape == (32_000,) and panns.abs().max() == 0  # the first channel, less its mean, and silence
    plain = read_waveform(tmp_path / "a.wav", 16_000, PLAIN)
    np.testing.assert_allclose(plain, (left + right) / 2, atol=1e-6)
    vggish = read_waveform(tmp_path / "a.wav", 16_000, VGGISH)
    assert vggish.shape == (20_000,)
    np.testing.assert_allclose(vggish, plain, atol=1 / 32768)
    assert (vggish * 65536 == (vggish * 65536).round()).all()  # the mean of two channels of 16 bits
    part = read_waveform(tmp_path / "a.wav", 16_000, PLAIN, start=0.5, duration=0.25)
    np.testing.assert_allclose(part, plain[8_000:12_000])
    assert len(read_waveform(tmp_path / "a.wav", 8_000, PANNS)) == 32_000
    with pytest.raises(AudioError, match=r"nowhere\.wav can't be read"):
        read_waveform(tmp_path / "nowhere.wav", 16_000)
    with pytest.raises(AudioError, match=r"a\.wav must hold a finite sound of at least one sample"):
        read_waveform(tmp_path / "a.wav", 16_000, PLAIN, start=2.0)
