"""The whole path: prompts -> conditioning -> tokens -> log-mel -> waveform, as :class:`AudioDEAR`."""

from __future__ import annotations

import dataclasses
import math
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dear.audio import check_audio, fit_clip, region, resample
from dear.card import model_card
from dear.checkpoint import (
    CARD,
    CheckpointError,
    load_card,
    load_codec,
    load_config,
    load_model,
    push,
    resolve,
    save_checkpoint,
)
from dear.checkpoint import digest as weights_digest
from dear.conditioning import Conditioning, TextEncoder, build_text_encoder, check_prompt
from dear.config import Config, SamplingConfig
from dear.mel import MelSpectrogram
from dear.model import MaskedModel
from dear.output import Output
from dear.sampling import MAX_SAMPLES, MAX_SEED, State, check_number, check_options, check_whole, generate

Progress = Callable[[int, int], object]
CROSSFADE = 0.02  # seconds, on either side of an inpainted region, inside it
CONTEXT = 0.4  # of a clip: how much of a sound is heard again to continue it
LONGEST_EXTENSION = 600.0  # seconds
DRAFT_STEPS = 10  # of the head, at most, for a draft


class AudioDEAR:
    """A text-to-audio model ready for use. Its parts are injected and public; a call leaves no trace on them."""

    def __init__(
        self,
        config: Config,
        variant: str,
        model: MaskedModel,
        vae: nn.Module,
        vocoder: nn.Module,
        text_encoder: TextEncoder,
        digest: str = "",
        card: str | None = None,
    ):
        """``digest`` names the weights in the settings of what they generate; ``card`` is saved with them."""
        self.config = config
        self.variant = variant
        self.sampling: SamplingConfig = config.variants[variant].sampling
        self.sample_rate = config.mel.sample_rate
        self.model = model
        self.vae = vae
        self.vocoder = vocoder
        self.text_encoder = text_encoder
        self.digest = digest
        self.card = card
        # A sound in [-1, 1] has STFT magnitudes up to the sum of the window, so no band can be louder than this.
        # Strong guidance, or an untrained model, would otherwise reach values whose exponential overflows.
        self.loudest = math.log(config.mel.n_fft / 2 * float(MelSpectrogram(config.mel).filters.sum(0).max()))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        variant: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> AudioDEAR:
        """Load a checkpoint.

        source: None for the bundled one; a folder; or "owner/name" on the Hub.
        variant: "student", "teacher", ...; None for the checkpoint's default.
        revision, token: of a Hub repository.
        device: None for CUDA, else MPS, else the CPU. dtype: of the masked model in memory; None for float32.
        Raises CheckpointError, ConfigError or EncoderError (all ValueError), before anything is built where possible.
        """
        device = _check_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating torch.dtype such as torch.bfloat16, got {dtype!r}")
        folder = resolve(source, variants=None if variant is None else (variant,), revision=revision, token=token)
        config = load_config(folder)
        variant = config.default_variant if variant is None else variant
        model = load_model(folder, config, variant, device, dtype or torch.float32)
        vae, vocoder = load_codec(folder, config, device)
        text_encoder = build_text_encoder(config.conditioning, device)
        return cls(
            config, variant, model, vae, vocoder, text_encoder, weights_digest(folder, variant), load_card(folder)
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a checkpoint of this variant alone, with its card, or a generated one. Returns its folder.

        An earlier checkpoint in ``folder`` is replaced. Raises CheckpointError where it holds variants that would be
        lost, where ``folder`` holds something else, and where the weights in memory are less precise than a file's.
        """
        if not isinstance(folder, str | Path):
            raise CheckpointError(f"folder must be a path, got {folder!r}")
        folder = Path(folder)
        lost = set(load_config(folder).variants) - {self.variant} if (folder / "config.json").is_file() else None
        if lost:
            raise CheckpointError(
                f"folder must not hold other variants than {self.variant}, which alone is loaded, got {str(folder)!r} "
                f"with {', '.join(sorted(lost))}"
            )
        dtype = next(self.model.parameters()).dtype
        if dtype == torch.bfloat16:
            raise CheckpointError("weights must be float32 or float16 to be saved, got torch.bfloat16: load them again")
        config = dataclasses.replace(self.config, variants={self.variant: self.config.variants[self.variant]})
        card = model_card(config) if self.card is None else self.card
        if self.card is not None and len(self.config.variants) > 1:
            card = f"{card.rstrip()}\n\nThis copy holds the variant `{self.variant}` alone.\n"
        return save_checkpoint(folder, config, {self.variant: self.model}, self.vae, self.vocoder, card)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish what :meth:`save_pretrained` writes, as one commit. Returns the commit's address.

        repository: "owner/name"; made where it is absent. private: None for the Hub's choice.
        revision: a branch, made from the main one where it is absent; None for the main one.
        token: one that may write; None for that of ``hf auth login`` or HF_TOKEN.
        Raises CheckpointError, also where the repository holds weights that the commit would leave out.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "checkpoint")
            if self.card is None:  # the repository may have a better one than can be generated
                (folder / CARD).unlink()
            return push(
                folder,
                repository,
                private=private,
                revision=revision,
                token=token,
                commit_message=commit_message,
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
    ) -> Output:
        """Sounds for one prompt or several, ``num_samples`` of each, in the order of the prompts.

        cfg_scale: 0 to 20. iterations: 1 to L. temperature: 0 to 2. steps: of the head, 1 to 1000. None: the
            checkpoint's own default.
        seed: item i uses ``seed + i``, and is what that seed gives alone. None: drawn, and told in ``Output.seed``.
        num_samples: 1 to 64; prompts times num_samples are at most 64.
        progress: called as ``progress(iteration, iterations)`` after each iteration.
        Raises ValueError naming the argument, its value and what is allowed, before any work; FloatingPointError where
        the model diverges.
        """
        request = self._request(
            prompt,
            self.sampling,
            self.model.length,
            cfg_scale,
            iterations,
            temperature,
            steps,
            seed,
            num_samples,
            progress,
        )
        return _last(self._run(request))

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
        every: int = 1,
    ) -> Iterator[Output]:
        """As :meth:`generate`, one result per iteration; only the last has a waveform. Input is checked at the call.

        every: give a result after each ``every``-th iteration only, and after the last.
        """
        every = check_whole("every", every, 1, self.model.length)
        request = self._request(
            prompt,
            self.sampling,
            self.model.length,
            cfg_scale,
            iterations,
            temperature,
            steps,
            seed,
            num_samples,
            progress,
        )
        return self._run(request, every)

    def draft(self, partial: Output) -> Output:
        """A first listen to a partial result of :meth:`stream`: its missing tokens are drawn all at once.

        That takes one more pass, with at most 10 steps of the head, and the codec. The generation itself goes on
        undisturbed: what it draws later differs from the draft.
        """
        names = [each.name for each in dataclasses.fields(SamplingConfig)]
        chosen = SamplingConfig(**{name: partial.settings[name] for name in names})
        request = Request(
            prompts=partial.prompts,
            num_samples=1,
            seeds=partial.seeds,
            sampling=dataclasses.replace(chosen, iterations=1, steps=min(chosen.steps, DRAFT_STEPS)),
            settings=partial.settings,
            progress=None,
            given=partial.tokens,
            given_mask=partial.order >= 0,
        )
        out = _last(self._run(request))
        return dataclasses.replace(out, order=partial.order, iteration=partial.iteration, iterations=partial.iterations)

    def inpaint(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        start: float,
        end: float,
        prompt: str | Sequence[str],
        *,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
    ) -> Output:
        """Draw the seconds [start, end) of ``audio`` anew and keep the rest.

        audio: [S] or [C, S], floating in [-1, 1] or int16, at ``sample_rate`` Hz; it is mixed to mono, resampled, and
            cropped or padded with silence to one clip. Outside the region the result is that clip, sample for sample;
            inside it the sounds cross-fade over 20 ms at each edge.
        iterations: at most the tokens that touch the region; the checkpoint's default is lowered to that.
        The other arguments, and the errors, are those of :meth:`generate`.
        """
        mel = self.config.mel
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        seconds = mel.samples / mel.sample_rate
        start, end = check_number("start", start, 0, seconds), check_number("end", end, 0, seconds)
        first, last = round(start * mel.sample_rate), round(end * mel.sample_rate)
        if first >= last:
            raise ValueError(f"end must be at least one sample later than start {start!r}, got {end!r}")

        keep = self._outside(first, last)
        wanted = int((~keep).sum())
        defaults = dataclasses.replace(self.sampling, iterations=min(self.sampling.iterations, wanted))
        request = self._request(
            prompt, defaults, wanted, cfg_scale, iterations, temperature, steps, seed, num_samples, progress
        )
        clip = fit_clip(samples, sample_rate, mel.sample_rate, mel.frames * mel.hop_length)
        with torch.inference_mode():
            tokens = self.vae.encode(MelSpectrogram(mel)(clip[None]).to(self.device)).cpu()
        count = len(request.seeds)
        request = dataclasses.replace(
            request,
            given=tokens.clone().expand(count, -1, -1),
            given_mask=keep.expand(count, -1),
            settings=request.settings | {"start": start, "end": end},
        )
        out = _last(self._run(request))
        weight = region(mel.samples, first, last, round(CROSSFADE * mel.sample_rate))
        original = clip[: mel.samples]
        mixed = (1 - weight.square()).sqrt() * original + weight * out.waveform
        return dataclasses.replace(out, waveform=torch.where(weight > 0, mixed, original).clamp(-1, 1))

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
            prompt, self.sampling, self.model.length, cfg_scale, iterations, temperature, steps, seed, 1, progress
        )
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
        counts = [min(request.sampling.iterations, int((~self._outside(each, clip)).sum())) for each in firsts]
        timings: dict[str, float] = {}
        for i, (tail, first) in enumerate(zip(tails, firsts, strict=True)):
            done = sum(counts[:i])
            out = self.inpaint(
                sound[-tail:],
                rate,
                first / rate,
                clip / rate,
                request.prompts[0],
                cfg_scale=request.sampling.cfg_scale,
                iterations=counts[i],
                temperature=request.sampling.temperature,
                steps=request.sampling.steps,
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

    def log_mel(self, audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """What the model sees of a sound of any length: [S] or [C, S] -> natural-log mel [F, M]."""
        config = self.config.mel
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        length = math.ceil(samples.shape[1] / sample_rate * config.sample_rate / config.hop_length) * config.hop_length
        clip = fit_clip(samples, sample_rate, config.sample_rate, max(length, config.n_fft))
        with torch.inference_mode():
            return MelSpectrogram(config)(clip[None])[0].clone()

    def _outside(self, first: int, last: int) -> Tensor:
        """[L] bool: the tokens that samples ``first`` to ``last`` don't touch."""
        span = self.config.vae.patch_frames * self.config.mel.hop_length  # samples under one token
        time_index = torch.arange(self.model.length) // self.config.grid[1]
        return ((time_index + 1) * span <= first) | (time_index * span >= last)

    def _request(
        self,
        prompt: str | Sequence[str],
        defaults: SamplingConfig,
        most_iterations: int,
        cfg_scale: float | None,
        iterations: int | None,
        temperature: float | None,
        steps: int | None,
        seed: int | None,
        num_samples: int,
        progress: Progress | None,
    ) -> Request:
        """All inputs, checked."""
        if isinstance(prompt, list | tuple):
            prompts = [check_prompt(one) for one in prompt]
            if not 1 <= len(prompts) <= MAX_SAMPLES:
                raise ValueError(f"prompt must be 1 to {MAX_SAMPLES} prompts, got {len(prompts)}")
        else:
            prompts = [check_prompt(prompt)]
        num_samples = check_whole("num_samples", num_samples, 1, MAX_SAMPLES)
        count = len(prompts) * num_samples
        if count > MAX_SAMPLES:
            raise ValueError(
                f"num_samples must be at most {MAX_SAMPLES // len(prompts)} for {len(prompts)} prompts "
                f"({MAX_SAMPLES} sounds), got {num_samples}"
            )
        sampling = check_options(
            defaults,
            most_iterations,
            self.model.head,
            cfg_scale=cfg_scale,
            iterations=iterations,
            temperature=temperature,
            steps=steps,
        )
        # 32 bits: enough for chance, and a number that people and web pages can copy.
        seed = secrets.randbelow(2**32) if seed is None else check_whole("seed", seed, 0, MAX_SEED)
        if progress is not None and not callable(progress):
            raise ValueError(f"progress must be a function of (iteration, iterations) or None, got {progress!r}")
        settings = {"model": self.config.name, "variant": self.variant, "digest": self.digest}
        return Request(
            prompts=prompts,
            num_samples=num_samples,
            seeds=[seed + i for i in range(count)],
            sampling=sampling,
            settings=settings | dataclasses.asdict(sampling),
            progress=progress,
        )

    def _run(self, request: Request, every: int | None = None) -> Iterator[Output]:
        """The output after each ``every``-th iteration and the last; None: after the last alone."""
        clock = _Clock(self.device)
        with clock.stage("text"):
            conditioning = self._condition(request)
        states = generate(
            self.model,
            conditioning,
            request.seeds,
            request.sampling,
            given=request.given,
            given_mask=request.given_mask,
        )
        while True:
            with clock.stage("decode"):
                state = next(states)
            if request.progress is not None:
                request.progress(state.iteration, state.iterations)
            done = state.iteration == state.iterations
            if done or (every and state.iteration % every == 0):
                yield self._output(state, request, clock, done)
            if done:
                return

    def _condition(self, request: Request) -> Conditioning:
        index = torch.arange(len(request.prompts)).repeat_interleave(request.num_samples)
        return self.text_encoder.encode(request.prompts).to(self.device).select(index)

    def _output(self, state: State, request: Request, clock: _Clock, done: bool) -> Output:
        tokens = state.tokens.float()
        if not tokens.isfinite().all():
            raise FloatingPointError(
                f"{self.config.name}/{self.variant} drew values that are not finite: its weights are damaged, or "
                f"cfg_scale {request.sampling.cfg_scale:g} is too strong for {state.tokens.dtype}"
            )
        waveform = None
        with torch.inference_mode():
            with clock.stage("codec"):
                mel = self.vae.decode(tokens).clamp(max=self.loudest)
                latents = self.vae.latents(tokens)
                if not done:
                    mel = torch.where(self._spread(state.known), mel, math.log(self.config.mel.floor))
            if done:
                with clock.stage("vocoder"):
                    waveform = self.vocoder(mel)[:, : self.config.mel.samples].float()
        # Clones of what was made in inference mode are ordinary tensors, which the caller may use as any other.
        return Output(
            waveform=None if waveform is None else waveform.cpu().clone(),
            sample_rate=self.sample_rate,
            mel=mel.cpu().clone(),
            tokens=tokens.cpu(),
            latents=latents.cpu().clone(),
            order=state.order.cpu(),
            iteration=state.iteration,
            iterations=state.iterations,
            seed=request.seeds[0],
            seeds=list(request.seeds),
            prompts=[prompt for prompt in request.prompts for _ in range(request.num_samples)],
            settings=dict(request.settings),
            timings=clock.timings(),
        )

    def _spread(self, known: Tensor) -> Tensor:
        """known [B, L] -> [B, F, M]: which part of the mel lies under known tokens."""
        vae = self.config.vae
        grid = known.unflatten(1, self.config.grid)
        return grid.repeat_interleave(vae.patch_frames, dim=1).repeat_interleave(vae.patch_mels, dim=2)


@dataclass(frozen=True, eq=False)
class Request:
    """What one call asks for, checked: nothing of it is ever stored on the model."""

    prompts: list[str]
    num_samples: int
    seeds: list[int]
    sampling: SamplingConfig
    settings: dict[str, Any]
    progress: Progress | None
    given: Tensor | None = None  # [B, L, D]
    given_mask: Tensor | None = None  # [B, L] bool


class _Clock:
    """Seconds per stage of one call. Work on a GPU is waited for, as it would otherwise count where it is read."""

    def __init__(self, device: torch.device):
        self.device = device
        self.begin = time.perf_counter()
        self.seconds = dict.fromkeys(("text", "decode", "codec", "vocoder"), 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] += time.perf_counter() - begin

    def timings(self) -> dict[str, float]:
        return self.seconds | {"total": time.perf_counter() - self.begin}


def _last(outputs: Iterator[Output]) -> Output:
    (out,) = outputs
    return out


def _check_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # the meta device has no values to give back
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise ValueError(f"device must be one of this machine such as cpu, cuda or mps, got {str(device)!r}") from None
    return checked
