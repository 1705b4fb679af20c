"""Rendering of a request: conditioning, decoding, codec and vocoder, with the time of each stage."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dear.audio import check_audio, fit_clip
from dear.codec.base import Codec, Vocoder
from dear.codec.mel import MelSpectrogram
from dear.conditioning import Conditioning, TextEncoder, check_prompt
from dear.config import Config, SamplingConfig
from dear.isolation import isolated
from dear.loudness import fade_ends, normalise
from dear.model import MaskedModel
from dear.options import SamplingOptions
from dear.output import Output
from dear.request import Progress, Request, check_whole, make_request
from dear.sampling import State, generate
from dear.vocabulary import Nearest, Vocabulary

NEAREST = 3  # wordings of each prompt that an output names


class Synthesizer:
    """The networks of one variant. A call does not change them."""

    def __init__(
        self,
        config: Config,
        variant: str,
        model: MaskedModel,
        vae: Codec,
        vocoder: Vocoder,
        text_encoder: TextEncoder,
        digest: str = "",
        vocabulary: Vocabulary | None = None,
    ):
        self.config = config
        self.variant = variant
        self.sampling: SamplingConfig = config.variants[variant].sampling
        self.model = model
        self.vae = vae
        self.vocoder = vocoder
        self.text_encoder = text_encoder
        self.digest = digest
        self.vocabulary = vocabulary
        # A sound in [-1, 1] has STFT magnitudes up to the sum of the window, so no band can be louder than this.
        # Strong guidance, or an untrained model, would otherwise reach values whose exponential overflows.
        with isolated(torch.device("cpu")):
            self.loudest = math.log(config.mel.n_fft / 2 * float(MelSpectrogram(config.mel).filters.sum(0).max()))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def request(
        self,
        prompt: str | Sequence[str],
        options: SamplingOptions,
        *,
        defaults: SamplingConfig | None = None,
        most_iterations: int | None = None,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
        negative_prompt: str | None = None,
        loudness: float | None = None,
    ) -> Request:
        """:func:`dear.request.make_request` for this variant. By default, its own sampling options and up to L
        iterations.
        """
        return make_request(
            self.config,
            self.model.head,
            self.sampling if defaults is None else defaults,
            self.model.length if most_iterations is None else most_iterations,
            {"model": self.config.name, "variant": self.variant, "digest": self.digest},
            prompt,
            options,
            seed=seed,
            num_samples=num_samples,
            progress=progress,
            negative_prompt=negative_prompt,
            loudness=loudness,
        )

    def run(self, request: Request, every: int | None = None) -> Iterator[Output]:
        """Yield the output after each ``every``-th iteration and after the last. None: only after the last."""
        return (finish() for finish in self.begin(request, every))

    def overlapped(self, requests: Sequence[Request], ahead: int) -> Iterator[Output]:
        """Yield the items of all requests. The wait for an output begins when ``ahead`` more requests are queued on the
        device.
        """
        begun: deque[Callable[[], Output]] = deque()
        for request in requests:
            begun.extend(self.begin(request))
            if len(begun) > ahead:
                yield from begun.popleft()()
        for finish in begun:
            yield from finish()

    def begin(self, request: Request, every: int | None = None) -> Iterator[Callable[[], Output]]:
        """Like :meth:`run`, but yields functions. Each waits for its output and not for work that is queued later."""
        clock = Clock(self.device)
        with isolated(self.device), clock.stage("text"):
            encoded = self.text_encoder.encode(request.prompts)
            index = torch.arange(len(request.prompts)).repeat_interleave(request.num_samples)
            conditioning = encoded.to(self.device).select(index)
            negative = None
            if request.negative is not None:
                negative = self.text_encoder.encode([request.negative]).to(self.device).select([0] * len(index))
            familiar = None if self.vocabulary is None else self._familiar(self.vocabulary, request.prompts, encoded)
        states = generate(
            self.model,
            conditioning,
            request.seeds,
            request.sampling,
            given=request.given,
            given_mask=request.given_mask,
            left_out=request.left_out,
            negative=negative,
        )
        for iteration in range(1, request.sampling.iterations + 1):
            done = iteration == request.sampling.iterations
            shown = done or (every is not None and iteration % every == 0)
            with isolated(self.device), clock.stage("decode", wait=shown):
                state = next(states)
            if request.progress is not None:
                request.progress(state.iteration, state.iterations)
            if shown:
                yield self._render(state, request, clock, done, familiar)

    def nearest(self, prompt: str, count: int) -> Nearest:
        """See :meth:`dear.AudioDEAR.nearest`."""
        if self.vocabulary is None:
            raise ValueError(
                f"nearest needs a checkpoint with a vocabulary, got {self.config.name!r}, which has none: add it with "
                "python -m training.vocabulary"
            )
        prompt, count = check_prompt(prompt), check_whole("count", count, 1, 1000)
        (found,) = self._familiar(self.vocabulary, [prompt], self.text_encoder.encode([prompt]), count)()
        return found

    def _familiar(
        self, vocabulary: Vocabulary, prompts: Sequence[str], encoded: Conditioning, count: int = NEAREST
    ) -> Callable[[], list[Nearest]]:
        """Look up what training knew of each prompt. The device starts now, and the returned function waits for it."""
        parts = [vocabulary.parts(prompt) for prompt in prompts]
        texts = [text for each in parts if len(each) > 1 for text in each]
        whole = encoded.pooled
        rest = self.text_encoder.encode(texts).pooled if texts else whole[:0]

        def look() -> list[Nearest]:
            vectors, others = whole.cpu(), iter(rest.cpu())
            found = []
            for prompt, vector, each in zip(prompts, vectors, parts, strict=True):
                asked = [prompt, *(each if len(each) > 1 else [])]
                rows = torch.stack([vector, *(next(others) for _ in asked[1:])])
                found.append(vocabulary.nearest(asked, rows, self.wordings, min(count, len(vocabulary.sounds))))
            return found

        return look

    @cached_property
    def wordings(self) -> Tensor:
        """[N, E] unit embeddings of the vocabulary's wordings, read from the checkpoint if its encoder made them."""
        assert self.vocabulary is not None
        stored = self.vocabulary.embeddings
        if stored is not None and stored.encoder == self.text_encoder.digest:
            return stored.vectors
        return self.text_encoder.embed([text for text, _ in self.vocabulary.entries])

    def _render(
        self, state: State, request: Request, clock: Clock, done: bool, familiar: Callable[[], list[Nearest]] | None
    ) -> Callable[[], Output]:
        """Queue codec and vocoder on the device, on CUDA on a separate stream. Returns a function that waits for the
        output.
        """
        lane = _lane(self.device)
        if lane is not None:
            lane.wait_stream(torch.cuda.current_stream(self.device))
        with isolated(self.device), _on(lane), torch.inference_mode():
            tokens, known = state.tokens.float(), state.known
            finite = tokens.isfinite().all()
            if lane is None:  # nothing is handed on that could be waited for later
                self._check_finite(finite, request)
            if request.left_out is not None and request.given is not None:  # part of the sound all the same
                left_out = request.left_out.to(known.device)
                tokens = torch.where(left_out[..., None], request.given.to(tokens), tokens)
                known = known | left_out
            waveform = None
            with clock.stage("codec"):
                mel = self.vae.decode(tokens).clamp(max=self.loudest)
                latents = self.vae.latents(tokens)
                finite = finite & mel.isfinite().all()
                if not done:
                    mel = torch.where(self._spread(known), mel, math.log(self.config.mel.floor))
            if done:
                with clock.stage("vocoder"):
                    render = self.vocoder.draft if request.draft else self.vocoder
                    waveform = render(mel)[:, : self.config.mel.samples].float()

        def finish() -> Output:
            # On its own stream each copy waits for what made it, and not for the next request's decoding. Clones of
            # what was made in inference mode are ordinary tensors, which the caller may use as any other.
            with isolated(self.device), _on(lane):
                self._check_finite(finite, request)
                return Output(
                    waveform=None if waveform is None else self._finish(waveform.cpu().clone(), request),
                    sample_rate=self.config.mel.sample_rate,
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
                    nearest=[one for one in familiar() for _ in range(request.num_samples)]
                    if done and familiar
                    else [],
                )

        return finish

    def _finish(self, waveform: Tensor, request: Request) -> Tensor:
        """Fade the ends of waveform [B, S], and scale it to the requested loudness."""
        rate = self.config.mel.sample_rate
        if request.fade:
            waveform = fade_ends(waveform, rate)
        return waveform if request.loudness is None else normalise(waveform, rate, request.loudness)

    def _check_finite(self, finite: Tensor, request: Request) -> None:
        if not finite:
            raise FloatingPointError(
                f"{self.config.name}/{self.variant} drew values that are not finite: its weights are damaged, or "
                f"cfg_scale {request.sampling.cfg_scale:g} is too strong for {next(self.model.parameters()).dtype}"
            )

    def _spread(self, known: Tensor) -> Tensor:
        """known [B, L] -> [B, F, M] bool, True where the mel lies under known tokens."""
        vae = self.config.vae
        grid = known.unflatten(1, self.config.grid)
        return grid.repeat_interleave(vae.patch_frames, dim=1).repeat_interleave(vae.patch_mels, dim=2)

    def log_mel(self, audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """The natural-log mel [F, M] of a sound [S] or [C, S] of any length."""
        config = self.config.mel
        samples = check_audio(audio)
        sample_rate = check_whole("sample_rate", sample_rate, 1000, 384_000)
        length = math.ceil(samples.shape[1] / sample_rate * config.sample_rate / config.hop_length) * config.hop_length
        clip = fit_clip(samples, sample_rate, config.sample_rate, max(length, config.n_fft))
        with isolated(clip.device):
            return MelSpectrogram(config)(clip[None])[0]


@cache
def _lane(device: torch.device) -> torch.cuda.Stream | None:
    """The CUDA stream for rendering while the next request is decoded. There is only one, because each stream keeps
    memory.
    """
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _on(lane: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if lane is None else torch.cuda.stream(lane)


class Clock:
    """Seconds per stage of one call. On CUDA they are measured by events, so that the host does not wait."""

    def __init__(self, device: torch.device):
        self.device = device
        self.begin = self.end = self.mark()
        self.spans: list[tuple[str, Any, Any]] = []

    def mark(self) -> Any:
        """The current time, or on CUDA an event in the current stream."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @contextmanager
    def stage(self, name: str, wait: bool = True) -> Iterator[None]:
        """wait: wait for work of another device, which would otherwise count in the stage that reads its result."""
        begin = self.mark()
        yield
        if wait and self.device.type == "mps":
            torch.mps.synchronize()
        self.end = self.mark()
        self.spans.append((name, begin, self.end))

    def timings(self) -> dict[str, float]:
        """{stage: seconds}, and the total from the beginning to the end of the last stage, which the device has
        reached.
        """
        seconds = dict.fromkeys(("text", "decode", "codec", "vocoder"), 0.0)
        for name, begin, end in self.spans:
            seconds[name] += self.between(begin, end)
        return seconds | {"total": self.between(self.begin, self.end)}

    def between(self, begin: Any, end: Any) -> float:
        return begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
