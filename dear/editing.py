"""Editing sounds of any length with a model whose clips have one length."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio, region, resample
from dear.inpainting import CROSSFADE
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.sampling import check_number, check_whole


def redraw(
    model: AudioDEAR,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    start: float,
    end: float,
    prompt: str,
    **options: Any,
) -> Output:
    """Draw the seconds [start, end) of a sound anew, at most one clip of it.

    audio, sample_rate, options: as for :meth:`AudioDEAR.inpaint`, which is given the clip around the region;
        ``iterations`` beyond the region's tokens, up to those of a clip, are lowered to them.
    The result has the sound's own length, mono at the model's rate, and keeps every sample outside the region.
    ``waveform`` and ``mel`` are those of the whole sound, the other tensors those of the clip.
    Raises ValueError naming the argument, its value and what is allowed.
    """
    rate, clip = model.sample_rate, model.config.mel.samples
    sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
    mono = resample(check_audio(audio).mean(axis=0), sample_rate, rate).clip(-1, 1)
    sound = torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))
    seconds = len(sound) / rate
    start, end = check_number("start", start, 0, seconds), check_number("end", end, 0, seconds)
    first, last = round(start * rate), min(round(end * rate), len(sound))
    if not first < last <= first + clip:
        raise ValueError(f"end must be up to {clip / rate:g} seconds later than start {start:g}, got {end:g}")
    # The region in the middle of the clip, as far as the sound reaches.
    at = min(max((first + last - clip) // 2, 0), max(len(sound) - clip, 0))
    if options.get("iterations") is not None:
        wanted = model.touched(first - at, last - at)
        options["iterations"] = min(check_whole("iterations", options["iterations"], 1, model.model.length), wanted)
    out = model.inpaint(
        sound[at : at + clip], rate, (first - at) / rate, (last - at) / rate, prompt, num_samples=1, **options
    )
    drawn = out.waveform[0]
    if first == at > 0 or last == at + clip < len(sound):  # to an edge of the clip, beyond which the sound goes on
        weight = region(len(sound), first, last, round(CROSSFADE * rate))[at : at + clip]
        drawn = weight * drawn + (1 - weight.square()).sqrt() * sound[at : at + clip]
    whole = torch.cat((sound[:at], drawn, sound[at + clip :]))[: len(sound)]
    return dataclasses.replace(
        out,
        waveform=whole[None],
        mel=model.log_mel(whole, rate)[None],
        settings=out.settings | {"start": start, "end": end},
    )
