"""A text-to-audio model in one object, loaded from a checkpoint and published as one: :class:`AudioDEAR`.

The file is long because the public surface is one class, most of it signatures and docstrings; the work is done in
:mod:`dear.rendering`, :mod:`dear.editing` and :mod:`dear.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from dear import editing, ranking, variations
from dear.card import model_card
from dear.checkpoint import (
    CARD,
    CheckpointError,
    check_sources,
    load_card,
    load_codec,
    load_config,
    load_model,
    push,
    resolve,
    save_checkpoint,
)
from dear.checkpoint import digest as weights_digest
from dear.codec.base import Codec, Vocoder
from dear.conditioning import TextEncoder, build_text_encoder
from dear.config import Config, SamplingConfig, from_dict
from dear.hub import Progress as Downloaded
from dear.hub import reporting
from dear.isolation import isolated
from dear.judge import Judge
from dear.model import MaskedModel
from dear.options import SamplingOptions
from dear.output import Output
from dear.rendering import Synthesizer
from dear.request import MAX_SAMPLES, MAX_SEED, Progress, Request, check_whole
from dear.vocabulary import Nearest, Vocabulary, load_vocabulary

DRAFT_STEPS = 10  # of the head, at most, for a draft
WIDE = 512  # of a backbone: from here on its matrix products take most of the time


class AudioDEAR:
    """A text-to-audio model: prompt -> conditioning -> tokens -> log-mel -> waveform.

    The networks are injected and public. No call changes them.
    """

    def __init__(
        self,
        config: Config,
        variant: str,
        model: MaskedModel,
        vae: Codec,
        vocoder: Vocoder,
        text_encoder: TextEncoder,
        digest: str = "",
        card: str | None = None,
        commit: str | None = None,
        vocabulary: Vocabulary | None = None,
    ):
        """digest: identifies the weights in the settings of outputs. card: the model card. vocabulary: what the weights
        were trained on, if known. commit: of the Hub repository that holds the weights."""
        self.synthesizer = Synthesizer(config, variant, model, vae, vocoder, text_encoder, digest, vocabulary)
        self.card = card
        self.commit = commit

    @property
    def config(self) -> Config:
        return self.synthesizer.config

    @property
    def variant(self) -> str:
        return self.synthesizer.variant

    @property
    def sampling(self) -> SamplingConfig:
        return self.synthesizer.sampling

    @property
    def model(self) -> MaskedModel:
        return self.synthesizer.model

    @property
    def vae(self) -> Codec:
        return self.synthesizer.vae

    @property
    def vocoder(self) -> Vocoder:
        return self.synthesizer.vocoder

    @property
    def text_encoder(self) -> TextEncoder:
        return self.synthesizer.text_encoder

    @property
    def digest(self) -> str:
        return self.synthesizer.digest

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self.synthesizer.vocabulary

    @property
    def sample_rate(self) -> int:
        return self.config.mel.sample_rate

    @property
    def device(self) -> torch.device:
        return self.synthesizer.device

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
        progress: Downloaded | None = None,
    ) -> AudioDEAR:
        """Load a checkpoint.

        source: a folder, or "owner/name" on the Hub ("hf://owner/name" if a folder has that name). None loads the
            bundled checkpoint.
        variant: "student" or "teacher", for example. None selects the checkpoint's default.
        revision: a branch, tag or commit of the Hub repository.
        token: an access token for the Hub.
        device: None selects CUDA, then MPS, then the CPU.
        dtype: the precision of the masked model in memory. None selects float16 on CUDA, bfloat16 for wide models (the
            paper's sizes) on CPUs with AVX-512 instructions for it, and float32 otherwise. Weights are float16 on disk.
        progress: called with the number of downloaded bytes and the total of each download. An exception that it raises
            ends the download. None shows progress bars on a terminal.

        Raises CheckpointError, ConfigError or EncoderError (all ValueError).
        """
        device = check_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating torch.dtype such as torch.bfloat16, got {dtype!r}")
        with isolated(device), reporting(progress):
            folder = resolve(source, variants=None if variant is None else (variant,), revision=revision, token=token)
            config = load_config(folder)
            check_sources(config)
            variant = config.default_variant if variant is None else variant
            model = load_model(folder, config, variant, device, dtype or best_dtype(device, config.backbone.width))
            vae, vocoder = load_codec(folder, config, device)
            text_encoder = build_text_encoder(config.conditioning, device)
        return cls(
            config,
            variant,
            model,
            vae,
            vocoder,
            text_encoder,
            weights_digest(folder, variant),
            load_card(folder),
            None if source is None or folder == Path(source) else folder.name,
            load_vocabulary(folder),
        )

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
        negative_prompt: str | None = None,
        loudness: float | None = None,
        candidates: int = 1,
        judge: Judge | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Output:
        """Generate ``num_samples`` sounds for each prompt, in the order of the prompts.

        options: cfg_scale, iterations, temperature, steps and savings; see :class:`dear.options.SamplingOptions`.
        seed: item i equals the result of ``generate`` with ``seed + i`` alone. None draws a seed, which the result
            holds as ``Output.seed``.
        num_samples: 1 to 64. The number of prompts times ``num_samples`` is at most 64.
        progress: called as ``progress(iteration, iterations)`` after each iteration.
        negative_prompt: what should not be heard. It replaces the null condition in guidance.
        loudness: the loudness of each sound in LUFS (BS.1770, gated), -60 to -5, as far as true peaks below -1 dBFS
            allow. None keeps the level of the vocoder.
        candidates: number of sounds that are generated for each sound of the result. ``judge`` selects the candidate in
            which it hears the prompt with the highest probability. Sound i has candidates with the seeds from
            ``seed + i * candidates`` on, and ``Output.seeds`` holds the selected seeds. 1 selects nothing.
        judge: by default the bundled classifier, which knows ten sounds.
        Sounds begin and end with a fade of 5 ms.
        Raises ValueError, which names the argument, its value and what is allowed, before any work, and
        FloatingPointError if the model diverges.
        """
        num_samples = check_whole("num_samples", num_samples, 1, MAX_SAMPLES)
        candidates = check_whole("candidates", candidates, 1, MAX_SAMPLES // num_samples)
        request = self.synthesizer.request(
            prompt,
            options,
            seed=seed,
            num_samples=num_samples * candidates,
            progress=progress,
            negative_prompt=negative_prompt,
            loudness=loudness,
        )
        if candidates == 1:
            (out,) = self.synthesizer.run(request)
            return out
        judge = ranking.default_judge() if judge is None else judge
        names = [ranking.labels(judge, each, self.nearest(each), self.sample_rate) for each in request.prompts]
        (out,) = self.synthesizer.run(request)
        return ranking.keep_best(out, candidates, judge, [each for each in names for _ in range(num_samples)])

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        batch: int = 8,
        seed: int | None = None,
        loudness: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Output]:
        """Generate one sound for each of any number of prompts, and yield them in batches, in the order of the prompts.

        On CUDA, a batch is rendered on a separate stream while the next batch is decoded. Elsewhere, batches are
        decoded and rendered one after the other.

        batch: prompts per batch, 1 to 64.
        seed: sound i uses ``seed + i``, whatever the batch size. None draws a seed.
        The other arguments and the errors are those of :meth:`generate`. Input is checked at the call.
        """
        if not isinstance(prompts, list | tuple) or not prompts:
            raise ValueError(f"prompts must be a list of at least one prompt, got {prompts!r:.80}")
        batch = check_whole("batch", batch, 1, MAX_SAMPLES)
        seed = secrets.randbelow(2**32) if seed is None else check_whole("seed", seed, 0, MAX_SEED - len(prompts))
        requests = [
            self.synthesizer.request(prompts[at : at + batch], options, seed=seed + at, loudness=loudness)
            for at in range(0, len(prompts), batch)
        ]
        return self.synthesizer.overlapped(requests, ahead=1 if self.device.type == "cuda" else 0)

    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
        every: int = 1,
        negative_prompt: str | None = None,
        loudness: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[Output]:
        """Yield a partial result of :meth:`generate` after each iteration. Only the last result has a waveform.

        every: yield after every n-th iteration and after the last one.
        The other arguments and the errors are those of :meth:`generate`. Input is checked at the call.
        """
        every = check_whole("every", every, 1, self.model.length)
        request = self.synthesizer.request(
            prompt,
            options,
            seed=seed,
            num_samples=num_samples,
            progress=progress,
            negative_prompt=negative_prompt,
            loudness=loudness,
        )
        return self.synthesizer.run(request, every)

    def draft(self, partial: Output) -> Output:
        """Render a preview of a partial result of :meth:`stream` by drawing all of its missing tokens at once.

        This costs one forward pass, at most 10 steps of the head, the codec, and the faster mode of the vocoder if it
        has one. The generation itself is not affected and draws other tokens later.
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
            negative=partial.settings.get("negative_prompt"),
            loudness=partial.settings.get("loudness"),
        )
        (out,) = self.synthesizer.run(request)
        return dataclasses.replace(out, order=partial.order, iteration=partial.iteration, iterations=partial.iterations)

    def inpaint(
        self,
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
        """Replace the seconds [start, end) of ``audio`` and keep the rest.

        audio: [S] or [C, S], floating in [-1, 1] or int16, at ``sample_rate`` Hz. It is mixed to mono, resampled, and
            cropped or padded with silence to one clip. Outside the region the result equals that clip, sample for
            sample. Inside the region the sounds cross-fade over 20 ms at each edge.
        context: seconds on either side of the region that the model hears, up to a whole clip. With more context the
            region fits in better and follows a different prompt less.
        iterations: at most the number of tokens that touch the region, to which the checkpoint's default is lowered.
        The other arguments and the errors are those of :meth:`generate`.
        """
        return editing.inpaint(
            self.synthesizer, audio, sample_rate, start, end, prompt, context=context, seed=seed,
            num_samples=num_samples, progress=progress, **options,
        )  # fmt: skip

    def redraw(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        start: float,
        end: float,
        prompt: str,
        **options: Any,
    ) -> Output:
        """Replace the seconds [start, end) of a sound of any length. The region is at most one clip long.

        audio, sample_rate, options: as for :meth:`inpaint`, which processes the clip around the region. ``iterations``
            is lowered to the number of tokens in the region.
        The result has the length of the sound, is mono at the model's rate, and keeps every sample outside the region.
        ``waveform`` and ``mel`` cover the whole sound, the other tensors only the clip.

        Raises ValueError, which names the argument, its value and what is allowed.
        """
        return editing.redraw(self.synthesizer, audio, sample_rate, start, end, prompt, **options)

    def extend(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        seconds: float,
        prompt: str,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Output:
        """Continue ``audio`` past its end, by ``seconds`` (0.1 to 600).

        audio: [S] or [C, S] as for :meth:`inpaint`, but of any length. It is mixed to mono and resampled. The result
            begins with it, sample for sample, except for its last 20 ms, in which the continuation fades in.
        iterations: per clip; lowered to the number of tokens that are drawn in the clip.
        Each clip continues the last 40 % of a clip of the sound so far and uses the next seed. ``waveform`` and ``mel``
        of the result cover the whole sound, the other tensors the last clip.
        The other arguments and the errors are those of :meth:`generate`.
        """
        return editing.extend(
            self.synthesizer, audio, sample_rate, seconds, prompt, seed=seed, progress=progress, **options,
        )  # fmt: skip

    def vary(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        strength: float,
        prompt: str | Sequence[str],
        *,
        seed: int | None = None,
        num_samples: int = 1,
        progress: Progress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Output:
        """Redraw a random share of the tokens of a sound under ``prompt``.

        audio: as for :meth:`inpaint`, cropped or padded with silence to one clip. The codec renders the whole result.
        strength: the share, 0 to 1: small for a variation, large for a sound that only starts from ``audio``. At least
            one token is drawn.
        iterations: lowered to the number of tokens that are drawn.
        The other arguments and the errors are those of :meth:`generate`.
        """
        return variations.vary(
            self.synthesizer, audio, sample_rate, strength, prompt, seed=seed, num_samples=num_samples,
            progress=progress, **options,
        )  # fmt: skip

    def loop(
        self,
        audio: np.ndarray | Tensor,
        sample_rate: int,
        prompt: str,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Output:
        """Make a sound that repeats without a seam, by redrawing a second on either side of its wrap.

        audio: as for :meth:`redraw`, at least 0.14 seconds long. At most half of it is redrawn.
        The other arguments and the errors are those of :meth:`generate`.
        """
        return variations.loop(
            self.synthesizer, audio, sample_rate, prompt, seed=seed, progress=progress, **options,
        )  # fmt: skip

    def fit(self, out: Output, seconds: float, *, progress: Progress | None = None) -> Output:
        """Give one finished sound another length, 1 to 30 seconds.

        To shorten it, the sound is cropped and fades out over 20 ms. To lengthen it, the sound is continued as by
        :meth:`extend`, with its own prompt and settings and the next seed. ``waveform`` and ``mel`` cover the whole
        sound.

        Raises ValueError for an output of several sounds or a length out of range.
        """
        return variations.fit(self.synthesizer, out, seconds, progress=progress)

    def nearest(self, prompt: str, count: int = 3) -> Nearest:
        """The wordings of training that are nearest to ``prompt``, and whether the model knows it.

        A composition is split at "then", "while", "and", "followed by" and similar words, and each part is looked up
        separately. Results of :meth:`generate` hold the same answer.

        count: number of sounds for each part.

        Raises ValueError for bad input or a checkpoint without a vocabulary.
        """
        return self.synthesizer.nearest(prompt, count)

    def log_mel(self, audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """The natural-log mel [F, M] of a sound [S] or [C, S] of any length."""
        return self.synthesizer.log_mel(audio, sample_rate)

    def compile(self) -> AudioDEAR:
        """Sample in a few fixed shapes through torch.compile, and on CUDA through replayed graphs. Returns itself.

        This is for servers with a GPU. The first generations of each batch size wait for the compiler, and later ones
        are hardly faster on a CPU. Sounds stay the same up to rounding.

        Raises ValueError for a model whose attention is "full".
        """
        self.model.compile_sampling()
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write a checkpoint with this variant and its model card, or a generated card. Returns the folder.

        An earlier checkpoint in ``folder`` is replaced. Raises CheckpointError if that checkpoint holds other variants,
        if ``folder`` holds something else, or if the weights in memory are less precise than those of a file.
        """
        if not isinstance(folder, str | Path):
            raise CheckpointError(f"folder must be a path, got {folder!r}")
        folder = Path(folder)
        lost = set(load_config(folder).variants) - {self.variant} if (folder / "config.json").is_file() else None
        if lost:
            raise CheckpointError(
                f"folder must not hold other variants than {self.variant}, the only one loaded, got {str(folder)!r} "
                f"with {', '.join(sorted(lost))}"
            )
        dtype = next(self.model.parameters()).dtype
        if dtype == torch.bfloat16:
            raise CheckpointError(
                "weights must be float32 or float16 to be saved, got torch.bfloat16: load them with dtype=torch.float32"
            )
        config = dataclasses.replace(self.config, variants={self.variant: self.config.variants[self.variant]})
        card = model_card(config) if self.card is None else self.card
        if self.card is not None and len(self.config.variants) > 1:
            card = f"{card.rstrip()}\n\nThis copy holds the variant `{self.variant}` alone.\n"
        return save_checkpoint(
            folder, config, {self.variant: self.model}, self.vae, self.vocoder, card, self.vocabulary
        )

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

        repository: "owner/name", which is created if it is absent.
        private: the visibility of the repository. None leaves the choice to the Hub.
        revision: a branch, which is created from the main branch if it is absent. None is the main branch.
        token: an access token with write permission. None uses that of ``hf auth login`` or HF_TOKEN.

        Raises CheckpointError if the upload fails, or if the repository holds weights that this checkpoint lacks.
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


def best_dtype(device: torch.device, width: int = 0) -> torch.dtype:
    """The precision in which the weights of a masked model are loaded. On disk they are float16.

    width: of the backbone. A CPU with instructions for bfloat16 decodes a wide model in half the time. A narrow model
        would gain only a tenth, and in float32 it gives the same sounds on all CPUs.
    """
    if device.type == "cuda":
        return torch.float16
    wide = device.type == "cpu" and width >= WIDE
    return torch.bfloat16 if wide and has_bfloat16_instructions() else torch.float32


def has_bfloat16_instructions() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 by AVX-512 instructions."""
    return torch.cpu._is_avx512_bf16_supported()


def check_device(device: torch.device | str | None, name: str = "device") -> torch.device:
    """A device that works. None selects CUDA, then MPS, then the CPU. Raises ValueError, which names ``name``."""
    if device is None:
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # the meta device has no values to give back
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise ValueError(f"{name} must be one of this machine such as cpu, cuda or mps, got {str(device)!r}") from None
    return checked
