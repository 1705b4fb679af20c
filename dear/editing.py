"""Edit sounds: replace a region of a clip or of a longer sound, and continue a sound past its end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio, fit_clip, region, resample
from dear.codec.mel import MelSpectrogram
from dear.isolation import isolated
from dear.loudness import fade_ends
from dear.options import SamplingOptions
from dear.output import Output
from dear.rendering import Synthesizer
from dear.request import MAX_SEED, Progress, Request, check_number, check_whole

CROSSFADE = 0.02  # seconds, on either side of an inpainted region, inside it
CONTEXT = 0.4  # share of a clip that the model hears of a sound to continue it
SILENCE = 1e-4  # a peak
LONGEST_EXTENSION = 600.0  # seconds


def inpaint(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    start: float,
    end: float,
    prompt: str | Sequence[str],
    *,
    context: float = 0.0,
    seed: int | None = None,
    num_samples: int = 1,
    progress: Progress | None = None,
    **options: Unpack[SamplingOptions],
) -> Output:
    """See :meth:`dear.AudioDEAR.inpaint`."""
    out, first, last = _draw(
        synthesizer, audio, sample_rate, start, end, prompt, context=context, seed=seed, num_samples=num_samples,
        progress=progress, **options,
    )  # fmt: skip
    mel = synthesizer.config.mel
    waveform = fade_ends(out.sound, mel.sample_rate, begin=first == 0, end=last == mel.samples)
    return dataclasses.replace(out, waveform=waveform)


def request_tokens(
    synthesizer: Synthesizer,
    prompt: str | Sequence[str],
    options: SamplingOptions,
    wanted: int,
    *,
    seed: int | None,
    num_samples: int,
    progress: Progress | None,
) -> Request:
    """A request that draws ``wanted`` tokens of each clip in at most as many iterations."""
    return synthesizer.request(
        prompt,
        options,
        defaults=dataclasses.replace(synthesizer.sampling, iterations=min(synthesizer.sampling.iterations, wanted)),
        most_iterations=wanted,
        seed=seed,
        num_samples=num_samples,
        progress=progress,
    )


def _draw(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    start: float,
    end: float,
    prompt: str | Sequence[str],
    *,
    context: float = 0.0,
    seed: int | None = None,
    num_samples: int = 1,
    progress: Progress | None = None,
    **options: Unpack[SamplingOptions],
) -> tuple[Output, int, int]:
    """:func:`inpaint` without fades at the ends of the clip, which may be joined to others. Returns the result and the
    samples [first, last) of the region.
    """
    mel = synthesizer.config.mel
    samples = check_audio(audio)
    sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
    seconds = mel.samples / mel.sample_rate
    start, end = check_number("start", start, 0, seconds), check_number("end", end, 0, seconds)
    context = check_number("context", context, 0, seconds)
    first, last = round(start * mel.sample_rate), round(end * mel.sample_rate)
    if first >= last:
        raise ValueError(f"end must be at least one sample later than start {start!r}, got {end!r}")

    keep = _outside(synthesizer, first, last)
    wanted = _touched(synthesizer, first, last)
    request = request_tokens(
        synthesizer, prompt, options, wanted, seed=seed, num_samples=num_samples, progress=progress
    )
    clip = fit_clip(samples, sample_rate, mel.sample_rate, mel.frames * mel.hop_length)
    tokens, gain = encode(synthesizer, clip)
    count, reach = len(request.seeds), round(context * mel.sample_rate)
    far = _outside(synthesizer, first - reach, last + reach)
    request = dataclasses.replace(
        request,
        given=tokens.expand(count, -1, -1),
        given_mask=(keep & ~far).expand(count, -1),
        left_out=far.expand(count, -1),
        settings=request.settings | {"start": start, "end": end, "context": context},
        fade=False,
    )
    (out,) = synthesizer.run(request)
    weight = region(mel.samples, first, last, round(CROSSFADE * mel.sample_rate))
    original = clip[: mel.samples]
    mixed = (1 - weight.square()).sqrt() * original + weight * out.sound / gain
    waveform = torch.where(weight > 0, mixed, original).clamp(-1, 1)
    return dataclasses.replace(out, waveform=waveform, mel=out.mel - math.log(gain)), first, last


def encode(synthesizer: Synthesizer, clip: Tensor) -> tuple[Tensor, float]:
    """The tokens [L, D] of a clip, and the gain that scales it to the loudness of the training data.

    Sound that the model draws beside them is as loud as the clip once it is divided by the gain.
    """
    config = synthesizer.config
    peak, loudest = config.vae.peak, float(clip.abs().max())
    gain = peak / loudest if peak and loudest > SILENCE else 1.0
    with isolated(synthesizer.device):
        tokens = synthesizer.vae.encode(MelSpectrogram(config.mel)(gain * clip[None]).to(synthesizer.device)).cpu()
    return tokens.clone(), gain


def redraw(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    start: float,
    end: float,
    prompt: str,
    **options: Any,
) -> Output:
    """See :meth:`dear.AudioDEAR.redraw`."""
    rate, clip = synthesizer.config.mel.sample_rate, synthesizer.config.mel.samples
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
        wanted = _touched(synthesizer, first - at, last - at)
        options["iterations"] = min(
            check_whole("iterations", options["iterations"], 1, synthesizer.model.length), wanted
        )
    out, *_ = _draw(
        synthesizer,
        sound[at : at + clip],
        rate,
        (first - at) / rate,
        (last - at) / rate,
        prompt,
        num_samples=1,
        **options,
    )
    drawn = out.sound[0]
    if first == at > 0 or last == at + clip < len(sound):  # to an edge of the clip, beyond which the sound goes on
        weight = region(len(sound), first, last, round(CROSSFADE * rate))[at : at + clip]
        drawn = weight * drawn + (1 - weight.square()).sqrt() * sound[at : at + clip]
    whole = torch.cat((sound[:at], drawn, sound[at + clip :]))[: len(sound)]
    whole = fade_ends(whole[None], rate, begin=first == 0, end=last == len(sound))[0]
    return dataclasses.replace(
        out,
        waveform=whole[None],
        mel=synthesizer.log_mel(whole, rate)[None],
        settings=out.settings | {"start": start, "end": end},
    )


def extend(
    synthesizer: Synthesizer,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    seconds: float,
    prompt: str,
    *,
    seed: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[SamplingOptions],
) -> Output:
    """See :meth:`dear.AudioDEAR.extend`."""
    config = synthesizer.config.mel
    rate, clip = config.sample_rate, config.samples
    samples = check_audio(audio)
    sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
    seconds = check_number("seconds", seconds, 0.1, LONGEST_EXTENSION)
    request = synthesizer.request(prompt, options, seed=seed, progress=progress)
    if len(request.prompts) > 1:
        raise ValueError(f"prompt must be one prompt to continue a sound with, got {len(request.prompts)}")
    mono = resample(samples.mean(axis=0), sample_rate, rate).clip(-1, 1)
    sound = torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))
    wanted = len(sound) + round(seconds * rate)

    tails, length = [], len(sound)  # samples of the sound that each clip begins with
    while length < wanted:
        tails.append(min(length, int(CONTEXT * clip)))
        length += clip - tails[-1]
    firsts = [tail - min(round(CROSSFADE * rate), tail // 2) for tail in tails]
    counts = [min(request.sampling.iterations, _touched(synthesizer, each, clip)) for each in firsts]
    timings: dict[str, float] = {}
    for i, (tail, first) in enumerate(zip(tails, firsts, strict=True)):
        done = sum(counts[:i])
        out, *_ = _draw(
            synthesizer,
            sound[-tail:],
            rate,
            first / rate,
            clip / rate,
            request.prompts[0],
            context=clip / rate,
            cfg_scale=request.sampling.cfg_scale,
            iterations=counts[i],
            temperature=request.sampling.temperature,
            steps=request.sampling.steps,
            savings=request.sampling.savings,
            seed=(request.seeds[0] + i) % (MAX_SEED + 1),
            progress=None if progress is None else partial(_shifted, progress, done, sum(counts)),
        )
        sound = torch.cat((sound[:-tail], out.sound[0]))[:wanted]
        timings = {stage: timings.get(stage, 0.0) + each for stage, each in out.timings.items()}
    sound = fade_ends(sound[None], rate, begin=False)[0]
    return dataclasses.replace(
        out,
        waveform=sound[None],
        mel=synthesizer.log_mel(sound, rate)[None],
        seed=request.seeds[0],
        seeds=list(request.seeds),
        settings=request.settings | {"seconds": seconds},
        timings=timings,
    )


def _shifted(progress: Progress, done: int, total: int, iteration: int, _: int) -> object:
    """A progress callback that reports the iterations of one clip within those of all clips."""
    return progress(done + iteration, total)


def _touched(synthesizer: Synthesizer, first: int, last: int) -> int:
    """The number of tokens that have samples among ``first`` to ``last``."""
    return int((~_outside(synthesizer, first, last)).sum())


def _outside(synthesizer: Synthesizer, first: int, last: int) -> Tensor:
    """[L] bool, True for tokens without samples among ``first`` to ``last``."""
    span = synthesizer.config.vae.patch_frames * synthesizer.config.mel.hop_length  # samples under one token
    time_index = torch.arange(synthesizer.model.length, device="cpu") // synthesizer.config.grid[1]
    return ((time_index + 1) * span <= first) | (time_index * span >= last)
