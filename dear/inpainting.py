"""Sounds drawn anew in part, and continued past their end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio, fit_clip, region, resample
from dear.config import Savings
from dear.generation import Progress, TextToAudio
from dear.mel import MelSpectrogram
from dear.output import Output
from dear.sampling import MAX_SEED, check_number, check_whole

CROSSFADE = 0.02  # seconds, on either side of an inpainted region, inside it
CONTEXT = 0.4  # of a clip: how much of a sound is heard again to continue it
SILENCE = 1e-4  # a peak
LONGEST_EXTENSION = 600.0  # seconds


class Inpainter(TextToAudio):
    """What draws whole sounds also fills the gaps of given ones."""

    def inpaint(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        start: float,
        end: float,
        prompt: str | Sequence[str],
        *,
        context: float = 0.0,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        savings: Savings | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
    ) -> Output:
        """Draw the seconds [start, end) of ``audio`` anew and keep the rest.

        audio: [S] or [C, S], floating in [-1, 1] or int16, at ``sample_rate`` Hz; it is mixed to mono, resampled, and
            cropped or padded with silence to one clip. Outside the region the result is that clip, sample for sample;
            inside it the sounds cross-fade over 20 ms at each edge.
        context: seconds of the surroundings on either side that the model hears, up to a whole clip. The more it hears,
            the better the region fits in, and the less it follows a prompt that asks for something else.
        iterations: at most the tokens that touch the region; the checkpoint's default is lowered to that.
        The other arguments, and the errors, are those of :meth:`generate`.
        """
        mel = self.config.mel
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        seconds = mel.samples / mel.sample_rate
        start, end = check_number("start", start, 0, seconds), check_number("end", end, 0, seconds)
        context = check_number("context", context, 0, seconds)
        first, last = round(start * mel.sample_rate), round(end * mel.sample_rate)
        if first >= last:
            raise ValueError(f"end must be at least one sample later than start {start!r}, got {end!r}")

        keep = self.outside(first, last)
        wanted = self.touched(first, last)
        defaults = dataclasses.replace(self.sampling, iterations=min(self.sampling.iterations, wanted))
        request = self._request(
            prompt, defaults, wanted, cfg_scale=cfg_scale, iterations=iterations,
            temperature=temperature, steps=steps, savings=savings, seed=seed, num_samples=num_samples,
            progress=progress,
        )  # fmt: skip
        clip = fit_clip(samples, sample_rate, mel.sample_rate, mel.frames * mel.hop_length)
        # As loud as what the model was trained on; what it draws is then as loud as the rest again.
        peak, loudest = self.config.vae.peak, float(clip.abs().max())
        gain = peak / loudest if peak and loudest > SILENCE else 1.0
        with torch.inference_mode():
            tokens = self.vae.encode(MelSpectrogram(mel)(gain * clip[None]).to(self.device)).cpu()
        count, reach = len(request.seeds), round(context * mel.sample_rate)
        far = self.outside(first - reach, last + reach)
        request = dataclasses.replace(
            request,
            given=tokens.clone().expand(count, -1, -1),
            given_mask=(keep & ~far).expand(count, -1),
            left_out=far.expand(count, -1),
            settings=request.settings | {"start": start, "end": end, "context": context},
        )
        (out,) = self._run(request)
        weight = region(mel.samples, first, last, round(CROSSFADE * mel.sample_rate))
        original = clip[: mel.samples]
        mixed = (1 - weight.square()).sqrt() * original + weight * out.waveform / gain
        waveform = torch.where(weight > 0, mixed, original).clamp(-1, 1)
        return dataclasses.replace(out, waveform=waveform, mel=out.mel - math.log(gain))

    def extend(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        seconds: float,
        prompt: str,
        *,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        savings: Savings | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ) -> Output:
        """Continue ``audio`` past its end, by ``seconds`` (0.1 to 600).

        audio: [S] or [C, S] as for :meth:`inpaint`, but of any length. Mixed to mono and resampled, it begins the
            result sample for sample, but for its last 20 ms, over which the continuation fades in.
        iterations: of each clip's length; lowered to the tokens that are drawn there.
        What is drawn continues the last 40 % of a clip, and then itself, with the next seed each time. ``waveform``
        and ``mel`` of the result are those of the whole sound, the other tensors those of what was drawn last.
        The other arguments, and the errors, are those of :meth:`generate`.
        """
        config = self.config.mel
        rate, clip = config.sample_rate, config.samples
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        seconds = check_number("seconds", seconds, 0.1, LONGEST_EXTENSION)
        request = self._request(
            prompt, self.sampling, self.model.length, cfg_scale=cfg_scale, iterations=iterations,
            temperature=temperature, steps=steps, savings=savings, seed=seed, progress=progress,
        )  # fmt: skip
        if len(request.prompts) > 1:
            raise ValueError(f"prompt must be one prompt to continue a sound with, got {len(request.prompts)}")
        mono = resample(samples.mean(axis=0), sample_rate, rate).clip(-1, 1)
        sound = torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))
        wanted = len(sound) + round(seconds * rate)

        tails, length = [], len(sound)  # samples that each clip takes up again
        while length < wanted:
            tails.append(min(length, int(CONTEXT * clip)))
            length += clip - tails[-1]
        firsts = [tail - min(round(CROSSFADE * rate), tail // 2) for tail in tails]
        counts = [min(request.sampling.iterations, self.touched(each, clip)) for each in firsts]
        timings: dict[str, float] = {}
        for i, (tail, first) in enumerate(zip(tails, firsts, strict=True)):
            done = sum(counts[:i])
            out = self.inpaint(
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
                progress=progress and (lambda n, _, done=done: progress(done + n, sum(counts))),
            )
            sound = torch.cat((sound[:-tail], out.waveform[0]))[:wanted]
            timings = {stage: timings.get(stage, 0.0) + each for stage, each in out.timings.items()}
        return dataclasses.replace(
            out,
            waveform=sound[None],
            mel=self.log_mel(sound, rate)[None],
            seed=request.seeds[0],
            seeds=list(request.seeds),
            settings=request.settings | {"seconds": seconds},
            timings=timings,
        )

    def touched(self, first: int, last: int) -> int:
        """How many tokens have samples among ``first`` to ``last``."""
        return int((~self.outside(first, last)).sum())

    def outside(self, first: int, last: int) -> Tensor:
        """[L] bool: the tokens that samples ``first`` to ``last`` don't touch."""
        span = self.config.vae.patch_frames * self.config.mel.hop_length  # samples under one token
        time_index = torch.arange(self.model.length) // self.config.grid[1]
        return ((time_index + 1) * span <= first) | (time_index * span >= last)
