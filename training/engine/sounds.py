"""The training task of the sound classifier: crops of recordings and scenes, distorted and mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dear.judge.classifier import SoundClassifier
from training.engine.schedule import step_seed

OFTEN = 3  # a recording is drawn this many times as often as a scene, since references are recordings
CROP = 512  # frames that one training example shows: 5.12 s


class SoundTask:
    """A :class:`training.engine.task.Task`: classify distorted crops of recordings and scenes."""

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
        """mels [N, F, M] of any float type. targets [N]: class indices. recordings: how many of the first items are
        recordings. held_out: mels and targets to validate on."""
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

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, Tensor]:
        """Class-balanced examples, half of them mixtures of two: mel [B, CROP, M], shares of the classes [B, K]."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        mel, target = self._draw(generator)
        other, other_target = self._draw(generator)
        # Half of the examples are mixtures of two: weighted sums of magnitudes of equal peak.
        share = torch.rand(len(mel), generator=generator) * 0.5
        share[torch.rand(len(mel), generator=generator) < 0.5] = 0
        share = share[:, None, None]
        mixed = torch.logaddexp(_peak(mel) + torch.log1p(-share), _peak(other) + torch.log(share))
        one_hot = nn.functional.one_hot(torch.stack((target, other_target)), len(self.module.labels)).float()
        return {
            "mel": mask_spectrogram(mixed, generator)[items],
            "target": ((1 - share[:, 0]) * one_hot[0] + share[:, 0] * one_hot[1])[items],
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
        """Distorted crops [B, CROP, M] of clips of uniformly drawn classes [B]."""
        target = torch.randint(len(self.of_class), (self.batch_size,), generator=generator)
        crops = []
        for k in target.tolist():
            item = self.of_class[k][torch.randint(len(self.of_class[k]), (), generator=generator)]
            crops.append(self._crop(self.mels[item], generator))
        return distort(torch.stack(crops), generator), target

    @staticmethod
    def _crop(mel: Tensor, generator: torch.Generator) -> Tensor:
        """mel [F, M] -> [CROP, M], up to a fifth faster or slower."""
        frames = min(len(mel), int(CROP * (0.8 + 0.45 * torch.rand((), generator=generator).item())))
        start = int(torch.randint(len(mel) - frames + 1, (), generator=generator))
        piece = mel[start : start + frames].float().T[None]
        return nn.functional.interpolate(piece, CROP, mode="linear", align_corners=False)[0].T


def distort(mel: Tensor, generator: torch.Generator) -> Tensor:
    """mel [B, F, M] -> the same sounds with other pitch, colour, noise floor and sharpness."""
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
    # Phase estimation and generated latents smear in time and add roughness.
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
