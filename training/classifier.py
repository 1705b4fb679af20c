"""Train the classifier that scores generated sounds: ``python -m training.classifier --clips DIR --out DIR``.

One fold is held out of training. Afterwards, the classifier is measured on its recordings, on scenes composed from
them, and on both after a codec and phase estimation, as in the sounds of a model. Training makes no choice on that
fold: the last averaged weights are the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dear.codec import build_vocoder
from dear.codec.griffin_lim import GriffinLimConfig
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE
from dear.config import MelConfig
from dear.evaluation.judge.features import embed, fit
from dear.evaluation.score import score_embedding
from dear.files import write_atomically
from dear.judge.classifier import ClassifierConfig, SoundClassifier, load_classifier, save_classifier
from training.data.captions import compositions, prompts
from training.data.clips import Clip, load_waveform, read_clips
from training.data.scenes import SceneSource
from training.engine.codec import fit_patch_vae
from training.engine.recipe import RECIPES, Recipe, load_recipe
from training.engine.schedule import TrainConfig
from training.engine.sounds import SoundTask
from training.engine.trainer import train
from training.report.classifier_card import classifier_card
from training.runtime.commands import guarded
from training.runtime.progress import Progress

TRAINING = TrainConfig(
    steps=1100, batch_size=32, lr=2e-3, weight_decay=0.05, warmup=60, ema=0.995, save_every=200, validate_every=400
)
SCENES = 1200  # single-event scenes in the bank that training draws from
RETURNED = 3  # every third scene of the bank passes through a codec and phase estimation
CODEC = PatchConfig(patch_frames=8, patch_mels=64, token_dim=96)  # coarser than any that ships
HELD_OUT_SCENES = 160


class Hearing:
    """Waveforms -> log-mels, directly or after a codec and phase estimation."""

    def __init__(self, mel: MelConfig, iterations: int):
        self.config = mel
        self.mel = MelSpectrogram(mel)
        self.vocoder = build_vocoder(GriffinLimConfig(iterations=iterations), mel)
        self.codec: PatchVAE | None = None

    def fit_codec(self, mels: Tensor) -> None:
        self.codec = fit_patch_vae(mels.float(), CODEC, self.config)

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> Tensor:
        """waveform [S] -> log-mel [F, M] of one clip; a shorter recording is looped."""
        return self.mel(fit(waveform, self.config.frames * self.config.hop_length)[None])[0]

    @torch.inference_mode()
    def returned(self, mel: Tensor) -> Tensor:
        """mel [F, M] -> waveform [S] after codec and phase estimation."""
        assert self.codec is not None  # fitted before
        return self.vocoder(self.codec.decode(self.codec.encode(mel[None])))[0].clamp(-1, 1)


def build_bank(
    clips: Sequence[Clip], names: Sequence[str], hearing: Hearing, scenes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Every recording, then ``scenes`` scenes of one sound -> mels [N, F, M] float16 and indices into ``names`` [N].

    Also fits the codec of ``hearing`` to the recordings.
    """
    progress = Progress("classifier: sounds", len(clips) + scenes, unit="sound")
    mels = torch.empty(len(clips) + scenes, hearing.config.frames, hearing.config.n_mels, dtype=torch.float16)
    labels = []
    for i, clip in enumerate(clips):
        mels[i] = hearing(torch.from_numpy(load_waveform(clip, hearing.config.sample_rate)))
        labels.append(clip.sound)
        progress.update()
    hearing.fit_codec(mels[: len(clips)])
    source = SceneSource(clips, hearing.config, seed, kinds=(1.0, 0.0, 0.0), sounds=names)
    for i in range(scenes):
        scene = source.scene(i)
        mel = hearing(torch.as_tensor(scene.waveform))
        mels[len(clips) + i] = hearing(hearing.returned(mel)) if i % RETURNED == 0 else mel
        labels.append(scene.labels[0])
        progress.update()
    progress.close()
    return mels, torch.tensor([names.index(label) for label in labels])


def measure(model: SoundClassifier, clips: Sequence[Clip], hearing: Hearing, seed: int) -> dict[str, Any]:
    """Scores of held-out clips: ``recordings``, ``scenes``, and both after codec and Griffin-Lim (``_returned``)."""
    mel = model.config.mel
    source = SceneSource(clips, mel, seed, kinds=(1.0, 0.0, 0.0), sounds=model.labels)
    recordings = [(torch.from_numpy(load_waveform(clip, mel.sample_rate)), clip.sound) for clip in clips]
    scenes = [(torch.as_tensor(s.waveform), s.labels[0]) for s in map(source.scene, range(HELD_OUT_SCENES))]
    result = {}
    for name, sounds in (("recordings", recordings), ("scenes", scenes)):
        labels = [label for _, label in sounds]
        result[name] = score_embedding(embed((sound for sound, _ in sounds), labels, model), model)
        returned = (hearing.returned(hearing(sound)) for sound, _ in sounds)
        result[f"{name}_returned"] = score_embedding(embed(returned, labels, model), model)
    return result


def train_classifier(
    clips: Sequence[Clip],
    names: Sequence[str],
    out: Path,
    state: Path,
    config: TrainConfig = TRAINING,
    *,
    mel: MelConfig | None = None,
    scenes: int = SCENES,
) -> dict[str, Any]:
    """Train on the clips of the sounds ``names``, measure on the held-out ones, and write the classifier to ``out``.

    state: folder for the training state. Returns the result of :func:`measure` for the weights on disk.
    Raises ValueError where one side of the split lacks a sound.
    """
    mel = mel or MelConfig()
    clips = [clip for clip in clips if clip.sound in names]
    heard = [clip for clip in clips if not clip.held_out]
    held_out = [clip for clip in clips if clip.held_out]
    if missing := sorted(set(names) - {clip.sound for clip in held_out}):
        raise ValueError(f"the held-out fold must hold every sound, got none of {', '.join(missing)}")
    hearing = Hearing(mel, iterations=8)  # rougher than the published vocoder, so that its artefacts are learnt
    mels, targets = build_bank(heard, names, hearing, scenes, config.seed)
    real = torch.stack([hearing(torch.from_numpy(load_waveform(clip, mel.sample_rate))) for clip in held_out])
    truth = torch.tensor([names.index(clip.sound) for clip in held_out])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = SoundClassifier(ClassifierConfig(labels=tuple(names), mel=mel))
    task = SoundTask(module, mels, targets, config.batch_size, config.seed, len(heard), (real, truth))
    model = train(task, config, state, "classifier")
    save_classifier(out, model.cpu())
    model = load_classifier(out)  # measure the weights on disk
    usual = Hearing(mel, iterations=GriffinLimConfig().iterations)
    usual.codec = hearing.codec
    result = measure(model, held_out, usual, config.seed + 1)
    measured = {f"held_out_{name}": scores["accuracy"] for name, scores in result.items()}
    save_classifier(out, model, measured, classifier_card(model, result, heard))
    return result


def export_prompts(folder: str | Path, names: Sequence[str]) -> None:
    """Write the held-back captions of the sounds ``names`` into ``folder``.

    eval_prompts.json, ``{label: [prompt, ...]}``, is for ``dear.evaluation.score``; eval_compositions.json,
    ``[[prompt, first label, second label], ...]``, for ``dear.evaluation.compositions``.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    single = {label: list(prompts(label)[1]) for label in names}
    for name, value in (("eval_prompts", single), ("eval_compositions", compositions(names))):
        text = json.dumps(value, indent=2) + "\n"
        write_atomically(Path(folder) / f"{name}.json", partial(_put, text))


def _put(text: str, file: IO[bytes]) -> None:
    file.write(text.encode())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.classifier", description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, metavar="DIR", help="recordings of mini.yaml's sounds")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the classifier is written")
    parser.add_argument("--state", type=Path, default=Path("runs/classifier"), metavar="DIR", help="to resume from")
    parser.add_argument("--held-out-fold", type=int, default=4, metavar="N")
    parser.add_argument("--prompts", type=Path, metavar="DIR", help="also write the held-back prompts there, as JSON")
    parser.add_argument("--steps", type=int, default=TRAINING.steps, metavar="N")
    args = parser.parse_args(argv)

    def run() -> None:
        names = load_recipe(RECIPES / "mini.yaml", Recipe).scenes.sounds
        if args.prompts is not None:
            export_prompts(args.prompts, names)
        config = dataclasses.replace(TRAINING, steps=args.steps)
        clips = read_clips([args.clips], {args.clips.absolute().name: args.held_out_fold})
        result = train_classifier(clips, names, args.out, args.state, config)
        for name, scores in result.items():
            print(f"{name}: {scores['accuracy']:.3f} of {scores['clips']}")
            for label, heard in scores["heard_as"].items():
                print(f"  {label}: {scores['per_class'][label]:.3f} {heard}")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
