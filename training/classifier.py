"""Train the classifier that scores generated sounds: ``python -m training.classifier --clips DIR --out DIR``.

One fold is held out of training and measured afterwards: its recordings, scenes composed from them, and both as a codec
and phase estimation give them back, for that is what the classifier hears of a model. No choice is made on that fold
during training: the last averaged weights are the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from dear.codec import build_vocoder
from dear.codec.griffin_lim import GriffinLimConfig
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE
from dear.config import MelConfig
from dear.evaluation.judge.classifier import ClassifierConfig, SoundClassifier, load_classifier, save_classifier
from dear.evaluation.judge.features import embed, fit
from dear.evaluation.score import score_embedding
from dear.files import write_atomically
from training.data.captions import compositions, prompts
from training.data.clips import Clip, load_waveform, read_clips
from training.data.scenes import SceneSource
from training.engine.codec import fit_patch_vae
from training.engine.recipe import RECIPES, Recipe, load_recipe
from training.engine.schedule import TrainConfig, step_seed
from training.engine.trainer import train
from training.runtime.commands import guarded
from training.runtime.progress import Progress

TRAINING = TrainConfig(
    steps=1100, batch_size=32, lr=2e-3, weight_decay=0.05, warmup=60, ema=0.995, save_every=200, validate_every=400
)
SCENES = 1200  # single-event scenes in the bank that training draws from
OFTEN = 3  # a recording is drawn this many times as often as a scene: what is measured against are recordings
RETURNED = 3  # every third scene of the bank is heard through a codec and phase estimation
CODEC = PatchConfig(patch_frames=8, patch_mels=64, token_dim=96)  # coarser than any that ships
CROP = 512  # frames that one training example shows: 5.12 s
HELD_OUT_SCENES = 160


class SoundTask:
    """A :class:`training.engine.task.Task`: name the sound in a distorted crop of a recording or a scene."""

    def __init__(
        self,
        module: SoundClassifier,
        mels: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: int,
        recordings: int = 0,
        held_out: tuple[Tensor, Tensor] | None = None,
    ):
        """mels [N,F,M] (any float type), targets [N] class indices; the first ``recordings`` of them are recordings;
        held_out: mels and targets to validate on."""
        self.module = module
        self.mels, self.targets = mels, targets
        self.batch_size, self.seed = batch_size, seed
        self.held_out = held_out
        drawn = torch.cat((torch.arange(recordings).repeat(OFTEN - 1), torch.arange(len(targets))))
        self.of_class = [drawn[targets[drawn] == k] for k in range(len(module.labels))]
        if empty := [label for label, items in zip(module.labels, self.of_class, strict=True) if not len(items)]:
            raise ValueError(f"clips must hold a recording of every label, got none of {', '.join(empty)}")

    @property
    def settings(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.mels.contiguous().view(torch.uint8).numpy().data).hexdigest()
        return {"network": list(self.module.config.channels), "mels": digest, "seed": self.seed}

    def batch(self, step: int) -> dict[str, Tensor]:
        """Class-balanced examples, half of them mixtures of two: mel [B,CROP,M] and the share [B,K] of each class."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        mel, target = self._draw(generator)
        other, other_target = self._draw(generator)
        # Half of the examples are mixtures of two, as sounds add up: magnitudes, of equal peak before the weights.
        share = torch.rand(len(mel), generator=generator) * 0.5
        share[torch.rand(len(mel), generator=generator) < 0.5] = 0
        share = share[:, None, None]
        mixed = torch.logaddexp(_peak(mel) + torch.log1p(-share), _peak(other) + torch.log(share))
        one_hot = nn.functional.one_hot(torch.stack((target, other_target)), len(self.module.labels)).float()
        return {
            "mel": mask_spectrogram(mixed, generator),
            "target": (1 - share[:, 0]) * one_hot[0] + share[:, 0] * one_hot[1],
        }

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        features = self.module.features(batch["mel"])
        kept = torch.rand(features.shape, generator=generator).to(features.device) < 0.7
        logits = self.module.head(features * kept / 0.7)
        right = (logits.argmax(1) == batch["target"].argmax(1)).float().mean()
        return {
            "loss": nn.functional.cross_entropy(logits, batch["target"], label_smoothing=0.05),
            "accuracy": right.detach(),
        }

    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        mels, targets = self.held_out
        device = next(self.module.parameters()).device
        heard = torch.cat([self.module(part.float().to(device)).argmax(1).cpu() for part in mels.split(16)])
        return {"held_out_accuracy": (heard == targets).float().mean().item()}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One half of a batch: distorted crops [B,CROP,M] of clips of uniformly drawn classes [B]."""
        target = torch.randint(len(self.of_class), (self.batch_size,), generator=generator)
        crops = []
        for k in target.tolist():
            item = self.of_class[k][torch.randint(len(self.of_class[k]), (), generator=generator)]
            crops.append(self._crop(self.mels[item], generator))
        return distort(torch.stack(crops), generator), target

    @staticmethod
    def _crop(mel: Tensor, generator: torch.Generator) -> Tensor:
        """mel [F,M] -> [CROP,M], played up to a fifth faster or slower."""
        frames = min(len(mel), int(CROP * (0.8 + 0.45 * torch.rand((), generator=generator).item())))
        start = int(torch.randint(len(mel) - frames + 1, (), generator=generator))
        piece = mel[start : start + frames].float().T[None]
        return nn.functional.interpolate(piece, CROP, mode="linear", align_corners=False)[0].T


def distort(mel: Tensor, generator: torch.Generator) -> Tensor:
    """mel [B,F,M] -> the same sound from elsewhere: other pitch, microphone, level above the noise, sharpness."""
    batch, _, mels = mel.shape
    # Up to two bands up or down.
    shift = torch.randint(-2, 3, (batch, 1), generator=generator)
    bands = (torch.arange(mels) + shift).clamp(0, mels - 1)
    mel = mel.gather(2, bands[:, None].expand_as(mel))
    # A smooth colour of up to about 12 dB.
    curve = torch.randn(batch, 1, 5, generator=generator) * 0.5
    mel = mel + nn.functional.interpolate(curve, mels, mode="linear", align_corners=True)
    # A noise floor that rises to between 35 and 100 dB below the peak.
    floor = mel.amax(dim=(1, 2), keepdim=True) - 4 - 7.5 * torch.rand(batch, 1, 1, generator=generator)
    mel = torch.logaddexp(mel, floor)
    # Estimated phases and generated latents smear a little along time, and are rough.
    smooth = nn.functional.avg_pool1d(mel.transpose(1, 2), 5, stride=1, padding=2, count_include_pad=False)
    weight = torch.rand(batch, 1, 1, generator=generator) * (torch.rand(batch, 1, 1, generator=generator) < 0.4)
    mel = torch.lerp(mel, smooth.transpose(1, 2), weight)
    return mel + 0.3 * torch.rand(batch, 1, 1, generator=generator) * torch.randn(mel.shape, generator=generator)


def mask_spectrogram(mel: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment (Park et al. 2019): up to two bands of time and one of frequency of each item become its mean."""
    mean = mel.mean(dim=(1, 2), keepdim=True)
    for axis, widest in ((1, 80), (1, 80), (2, 12)):
        size = mel.shape[axis]
        width = torch.randint(0, widest + 1, (len(mel), 1), generator=generator)
        start = (torch.rand(len(mel), 1, generator=generator) * (size - width)).long()
        place = torch.arange(size)
        hidden = (place >= start) & (place < start + width)
        mel = torch.where(hidden[:, :, None] if axis == 1 else hidden[:, None], mean, mel)
    return mel


def _peak(mel: Tensor) -> Tensor:
    return mel - mel.amax(dim=(1, 2), keepdim=True)


class Hearing:
    """Waveforms -> log-mels, straight or as a codec and phase estimation give them back."""

    def __init__(self, mel: MelConfig, iterations: int):
        self.config = mel
        self.mel = MelSpectrogram(mel)
        self.vocoder = build_vocoder(GriffinLimConfig(iterations=iterations), mel)
        self.codec: PatchVAE | None = None

    def fit_codec(self, mels: Tensor) -> None:
        self.codec = fit_patch_vae(mels.float(), CODEC, self.config)

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> Tensor:
        """waveform [S] -> log-mel [F,M] of one whole clip; a shorter recording is looped."""
        return self.mel(fit(waveform, self.config.frames * self.config.hop_length)[None])[0]

    @torch.inference_mode()
    def returned(self, mel: Tensor) -> Tensor:
        """mel [F,M] -> waveform [S]."""
        assert self.codec is not None  # fitted before
        return self.vocoder(self.codec.decode(self.codec.encode(mel[None])))[0].clamp(-1, 1)


def build_bank(
    clips: Sequence[Clip], names: Sequence[str], hearing: Hearing, scenes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Every recording, then ``scenes`` scenes of one sound -> mels [N,F,M] float16 and indices into ``names`` [N].

    Fits the codec of ``hearing`` to the recordings on the way.
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
    """Scores of held-out clips: ``recordings``, ``scenes``, and both once more through codec and Griffin-Lim."""
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

    ``state`` receives what a stopped run resumes from. Returns what :func:`measure` measured on the weights as they
    are on disk. Raises ValueError where one side of the split lacks a sound.
    """
    mel = mel or MelConfig()
    clips = [clip for clip in clips if clip.sound in names]
    heard = [clip for clip in clips if not clip.held_out]
    held_out = [clip for clip in clips if clip.held_out]
    if missing := sorted(set(names) - {clip.sound for clip in held_out}):
        raise ValueError(f"the held-out fold must hold every sound, got none of {', '.join(missing)}")
    hearing = Hearing(mel, iterations=8)  # rougher than what ships, so that artefacts are familiar
    mels, targets = build_bank(heard, names, hearing, scenes, config.seed)
    real = torch.stack([hearing(torch.from_numpy(load_waveform(clip, mel.sample_rate))) for clip in held_out])
    truth = torch.tensor([names.index(clip.sound) for clip in held_out])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = SoundClassifier(ClassifierConfig(labels=tuple(names), mel=mel))
    task = SoundTask(module, mels, targets, config.batch_size, config.seed, len(heard), (real, truth))
    model = train(task, config, state, "classifier")
    save_classifier(out, model.cpu())
    model = load_classifier(out)  # what is measured is what is on disk
    usual = Hearing(mel, iterations=GriffinLimConfig().iterations)
    usual.codec = hearing.codec
    result = measure(model, held_out, usual, config.seed + 1)
    measured = {f"held_out_{name}": scores["accuracy"] for name, scores in result.items()}
    save_classifier(out, model, measured, card(model, result, heard))
    return result


def card(model: SoundClassifier, result: Mapping[str, Any], clips: Sequence[Clip]) -> str:
    """The model card."""
    names = {
        "recordings": "recordings, looped to 10 s",
        "scenes": "single-event scenes made of them",
        "recordings_returned": "recordings through a linear codec and Griffin-Lim",
        "scenes_returned": "scenes through a linear codec and Griffin-Lim",
    }
    rows = "\n".join(f"| {names[name]} | {s['clips']} | {s['accuracy']:.3f} |" for name, s in result.items())
    each = "\n".join(
        f"| {label} | {result['recordings']['per_class'][label]:.2f} | {result['scenes']['per_class'][label]:.2f} | "
        + ", ".join(f"{n} {other}" for other, n in result["recordings"]["heard_as"][label].items() if other != label)
        + " |"
        for label in model.labels
    )
    credits = "\n".join(f'- "{c.title}" by {c.author}, {c.license}, {c.source}' for c in clips)
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# AudioDEAR's sound classifier

Names one of {len(model.labels)} sounds in a mono clip of {model.config.mel.sample_rate} Hz: {", ".join(model.labels)}.
It scores AudioDEAR's generated sounds (`python -m dear.evaluation.score`): accuracy from its answers, Fréchet distance
in its {model.config.width} features, KL divergence and inception score from its probabilities.

A convolutional network of {parameters:,} parameters on the log-mel spectrogram, trained by
`python -m training.classifier` on {len(clips)} recordings of ESC-10 and scenes made of them.

## Measured on clips that it never heard

| clips | number | accuracy |
|---|---|---|
{rows}

| class | recordings | scenes | recordings mistaken for |
|---|---|---|---|
{each}

## Limits

It hears log-mels only. A waveform whose log-mel is right gets full marks however it sounds, so this classifier cannot
judge vocoders; `python -m dear.evaluation.losses` takes a judge of waveforms.

It was trained on few recordings, and answers with one of its {len(model.labels)} labels whatever it hears. Loudness is
taken out before it listens, so it can't tell a sound that is too loud or too soft. Figures in its features compare only
with figures of this same file (its digest is in `config.json`), never with FD or KL of other judges.

## Attribution

Trained on these recordings, collected in ESC-50 (K. J. Piczak, 2015) from freesound.org:

{credits}
"""


def export_prompts(folder: str | Path, names: Sequence[str]) -> None:
    """Write the captions of the sounds ``names`` that no model is trained on into ``folder``.

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
