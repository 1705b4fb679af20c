"""The whole path: prompts -> conditioning -> tokens -> log-mel -> waveform."""

from __future__ import annotations

import dataclasses
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dear.audio import check_audio, fit_clip
from dear.conditioning import Conditioning, TextEncoder, check_prompt
from dear.config import Config, SamplingConfig, Savings, from_dict
from dear.mel import MelSpectrogram
from dear.model import MaskedModel
from dear.output import Output
from dear.sampling import MAX_SAMPLES, MAX_SEED, State, check_options, check_whole, generate

Progress = Callable[[int, int], object]
DRAFT_STEPS = 10  # of the head, at most, for a draft


class TextToAudio:
    """Text to sound. The parts are injected and public; a call leaves no trace on them."""

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
        commit: str | None = None,
    ):
        """digest: names the weights in the settings of what they generate; card: is saved with them; commit: of the
        Hub repository that they came from."""
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
        self.commit = commit
        # A sound in [-1, 1] has STFT magnitudes up to the sum of the window, so no band can be louder than this.
        # Strong guidance, or an untrained model, would otherwise reach values whose exponential overflows.
        self.loudest = math.log(config.mel.n_fft / 2 * float(MelSpectrogram(config.mel).filters.sum(0).max()))

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
        savings: Savings | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
    ) -> Output:
        """Sounds for one prompt or several, ``num_samples`` of each, in the order of the prompts.

        cfg_scale: 0 to 20. iterations: 1 to L. temperature: 0 to 2. steps: of the head, 1 to 1000. savings: what to
            leave out for speed, such as ``dear.Savings(refresh_every=4)``. None: the checkpoint's own default.
        seed: item i uses ``seed + i``, and is what that seed gives alone. None: drawn, and told in ``Output.seed``.
        num_samples: 1 to 64; prompts times num_samples are at most 64.
        progress: called as ``progress(iteration, iterations)`` after each iteration.
        Raises ValueError naming the argument, its value and what is allowed, before any work; FloatingPointError where
        the model diverges.
        """
        request = self._request(
            prompt, self.sampling, self.model.length, cfg_scale=cfg_scale, iterations=iterations,
            temperature=temperature, steps=steps, savings=savings, seed=seed, num_samples=num_samples,
            progress=progress,
        )  # fmt: skip
        (out,) = self._run(request)
        return out

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        batch: int = 8,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        savings: Savings | None = None,
        seed: int | None = None,
    ) -> Iterator[Output]:
        """One sound for each of any number of prompts, in their order, ``batch`` (1 to 64) of them at a time.

        On CUDA a batch is rendered, on a stream of its own, while the next one is decoded; it is given once that is
        under way. Elsewhere the processor has no room for both, and a batch is given as soon as it is there.
        seed: sound i uses ``seed + i``, whatever the batch; None: drawn. Input is checked at the call; the other
        arguments, and the errors, are those of :meth:`generate`.
        """
        if not isinstance(prompts, list | tuple) or not prompts:
            raise ValueError(f"prompts must be a list of at least one prompt, got {prompts!r:.80}")
        batch = check_whole("batch", batch, 1, MAX_SAMPLES)
        seed = secrets.randbelow(2**32) if seed is None else check_whole("seed", seed, 0, MAX_SEED - len(prompts))
        requests = [
            self._request(
                prompts[at : at + batch], self.sampling, self.model.length, cfg_scale=cfg_scale, iterations=iterations,
                temperature=temperature, steps=steps, savings=savings, seed=seed + at,
            )
            for at in range(0, len(prompts), batch)
        ]  # fmt: skip
        return self._overlapped(requests, ahead=1 if self.device.type == "cuda" else 0)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        savings: Savings | None = None,
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
            prompt, self.sampling, self.model.length, cfg_scale=cfg_scale, iterations=iterations,
            temperature=temperature, steps=steps, savings=savings, seed=seed, num_samples=num_samples,
            progress=progress,
        )  # fmt: skip
        return self._run(request, every)

    def draft(self, partial: Output) -> Output:
        """A first listen to a partial result of :meth:`stream`: its missing tokens are drawn all at once.

        That takes one more pass, with at most 10 steps of the head, and the codec; the vocoder hurries where it can.
        The generation itself goes on undisturbed: what it draws later differs from the draft.
        """
        names = [each.name for each in dataclasses.fields(SamplingConfig)]
        chosen = from_dict(SamplingConfig, {name: partial.settings[name] for name in names})
        request = Request(
            prompts=partial.prompts,
            num_samples=1,
            seeds=partial.seeds,
            sampling=dataclasses.replace(chosen, iterations=1, steps=min(chosen.steps, DRAFT_STEPS)),
            settings=partial.settings,
            progress=None,
            given=partial.tokens,
            given_mask=partial.order >= 0,
            draft=True,
        )
        (out,) = self._run(request)
        return dataclasses.replace(out, order=partial.order, iteration=partial.iteration, iterations=partial.iterations)

    def log_mel(self, audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """What the model sees of a sound of any length: [S] or [C, S] -> natural-log mel [F, M]."""
        config = self.config.mel
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        length = math.ceil(samples.shape[1] / sample_rate * config.sample_rate / config.hop_length) * config.hop_length
        clip = fit_clip(samples, sample_rate, config.sample_rate, max(length, config.n_fft))
        with torch.inference_mode():
            return MelSpectrogram(config)(clip[None])[0].clone()

    def _request(
        self,
        prompt: str | Sequence[str],
        defaults: SamplingConfig,
        most_iterations: int,
        *,
        cfg_scale: float | None,
        iterations: int | None,
        temperature: float | None,
        steps: int | None,
        savings: Savings | None,
        seed: int | None,
        num_samples: int = 1,
        progress: Progress | None = None,
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
            savings=savings,
        )
        self.config.check_savings(sampling.savings)
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
        return (finish() for finish in self._begin(request, every))

    def _overlapped(self, requests: Sequence[Request], ahead: int) -> Iterator[Output]:
        """The items of all requests; an output is waited for once ``ahead`` more requests are handed to the device."""
        begun: deque[Callable[[], Output]] = deque()
        for request in requests:
            begun.extend(self._begin(request))
            if len(begun) > ahead:
                yield from begun.popleft()()
        for finish in begun:
            yield from finish()

    def _begin(self, request: Request, every: int | None = None) -> Iterator[Callable[[], Output]]:
        """As :meth:`_run`; what is given waits for the device, and for nothing that is handed to it later."""
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
            left_out=request.left_out,
        )
        for iteration in range(1, request.sampling.iterations + 1):
            done = iteration == request.sampling.iterations
            shown = done or (every is not None and iteration % every == 0)
            with clock.stage("decode", wait=shown):
                state = next(states)
            if request.progress is not None:
                request.progress(state.iteration, state.iterations)
            if shown:
                yield self._render(state, request, clock, done)

    def _condition(self, request: Request) -> Conditioning:
        index = torch.arange(len(request.prompts)).repeat_interleave(request.num_samples)
        return self.text_encoder.encode(request.prompts).to(self.device).select(index)

    def _render(self, state: State, request: Request, clock: _Clock, done: bool) -> Callable[[], Output]:
        """Hand codec and vocoder to the device, on CUDA to a stream of their own -> what waits for the output."""
        lane = _lane(self.device)
        if lane is not None:
            lane.wait_stream(torch.cuda.current_stream(self.device))
        with _on(lane), torch.inference_mode():
            tokens, known = state.tokens.float(), state.known
            finite = tokens.isfinite().all()
            if lane is None:  # nothing is handed on that could be waited for later
                self._check_finite(finite, request)
            if request.left_out is not None:  # part of the sound all the same
                left_out = request.left_out.to(known.device)
                tokens = torch.where(left_out[..., None], request.given.to(tokens), tokens)
                known = known | left_out
            waveform = None
            with clock.stage("codec"):
                mel = self.vae.decode(tokens).clamp(max=self.loudest)
                latents = self.vae.latents(tokens)
                if not done:
                    mel = torch.where(self._spread(known), mel, math.log(self.config.mel.floor))
            if done:
                with clock.stage("vocoder"):
                    render = getattr(self.vocoder, "draft", self.vocoder) if request.draft else self.vocoder
                    waveform = render(mel)[:, : self.config.mel.samples].float()

        def finish() -> Output:
            # On its own stream each copy waits for what made it, and not for the next request's decoding. Clones of
            # what was made in inference mode are ordinary tensors, which the caller may use as any other.
            with _on(lane):
                self._check_finite(finite, request)
                return Output(
                    waveform=None if waveform is None else waveform.cpu().clone(),
                    sample_rate=self.sample_rate,
                    mel=mel.cpu().clone(),
                    tokens=tokens.cpu().clone(),
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

        return finish

    def _check_finite(self, finite: Tensor, request: Request) -> None:
        if not finite:
            raise FloatingPointError(
                f"{self.config.name}/{self.variant} drew values that are not finite: its weights are damaged, or "
                f"cfg_scale {request.sampling.cfg_scale:g} is too strong for {next(self.model.parameters()).dtype}"
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
    given_mask: Tensor | None = None  # [B, L] bool, which of them the model is shown
    left_out: Tensor | None = None  # [B, L] bool, which of them it isn't, and doesn't draw either
    draft: bool = False  # whether the sound may be rendered in a hurry


@cache
def _lane(device: torch.device) -> torch.cuda.Stream | None:
    """CUDA's stream for rendering beside the decoding of what comes next; one alone, as memory is kept for each."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _on(lane: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if lane is None else torch.cuda.stream(lane)


class _Clock:
    """Seconds per stage of one call. On CUDA the device takes them, so that nobody waits for it meanwhile."""

    def __init__(self, device: torch.device):
        self.device = device
        self.begin = self.end = self.mark()
        self.spans: list[tuple[str, Any, Any]] = []

    def mark(self) -> Any:
        """This moment; on CUDA that in which the current stream gets here."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @contextmanager
    def stage(self, name: str, wait: bool = True) -> Iterator[None]:
        """wait: for work that another device may still have; it would otherwise count where it is read."""
        begin = self.mark()
        yield
        if wait and self.device.type == "mps":
            torch.mps.synchronize()
        self.end = self.mark()
        self.spans.append((name, begin, self.end))

    def timings(self) -> dict[str, float]:
        """{stage: seconds}, and the total from the beginning to the last stage's end, which the device has reached."""
        seconds = dict.fromkeys(("text", "decode", "codec", "vocoder"), 0.0)
        for name, begin, end in self.spans:
            seconds[name] += self.between(begin, end)
        return seconds | {"total": self.between(self.begin, self.end)}

    def between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
