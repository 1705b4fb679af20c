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
    """A text-to-audio model ready for use: prompt -> conditioning -> tokens -> log-mel -> waveform.

    The networks are injected and public; a call leaves no trace on them.
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
        """digest: identifies the weights in the settings of their outputs. card: saved with the weights. commit: of the
        Hub repository that the weights came from. vocabulary: what the weights were trained on, where it is known."""
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

        source: None for the bundled one; a folder; or "owner/name" on the Hub ("hf://owner/name" where a folder has
            that name).
        variant: "student", "teacher", ...; None for the checkpoint's default.
        revision, token: of a Hub repository.
        device: None for CUDA, else MPS, else the CPU. dtype: of the masked model in memory; None for float16
            on CUDA, which loses nothing of the weights, for bfloat16 on a CPU with AVX-512's instructions for it where
            the model is wide (the paper's sizes), and for float32 elsewhere.
        progress: is called with the bytes of a download so far and all of its bytes, one download after another; what
            it raises ends the download. None: bars on a terminal.
        Raises CheckpointError, ConfigError or EncoderError (all ValueError), before anything is built where possible.
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
        """Sounds for one prompt or several, ``num_samples`` of each, in the order of the prompts.

        options: cfg_scale, iterations, temperature, steps and savings; see :class:`dear.options.SamplingOptions`.
        seed: item i uses ``seed + i``, and is what that seed gives alone. None: drawn; ``Output.seed`` holds it.
        num_samples: 1 to 64; prompts times num_samples are at most 64.
        progress: called as ``progress(iteration, iterations)`` after each iteration.
        negative_prompt: what should not be heard; takes the place of the null condition in guidance.
        loudness: LUFS (BS.1770, gated), -60 to -5, of each sound, as far as true peaks below -1 dBFS allow; the page
            uses ``dear.loudness.PAGE``. None: as the vocoder gives it.
        candidates: sounds that are generated for each one that is kept, the one in which ``judge`` hears the prompt
            most surely (None: the bundled classifier, which knows ten sounds). 1, the default, chooses nothing.
            Sound i has the candidates of the seeds from ``seed + i * candidates`` on; ``Output.seeds`` are those kept.
        Sounds begin and end with a fade of 5 ms.
        Raises ValueError naming the argument, its value and what is allowed, before any work; FloatingPointError where
        the model diverges.
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
        """One sound for each of any number of prompts, in their order, ``batch`` (1 to 64) of them at a time.

        On CUDA a batch is rendered, on a stream of its own, while the next one is decoded; it is given once that is
        under way. Elsewhere the processor has no room for both, and a batch is given as soon as it is there.
        seed: sound i uses ``seed + i`` for any batch; None: drawn. Input is checked at the call; the other
        arguments, and the errors, are those of :meth:`generate`.
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
        """As :meth:`generate`, one result per iteration; only the last has a waveform. Input is checked at the call.

        every: give a result after each ``every``-th iteration only, and after the last.
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

        audio: [S] or [C, S], floating in [-1, 1] or int16, at ``sample_rate`` Hz; it is mixed to mono, resampled, and
            cropped or padded with silence to one clip. Outside the region the result is that clip, sample for sample;
            inside it the sounds cross-fade over 20 ms at each edge.
        context: seconds of the surroundings on either side that the model hears, up to a whole clip. The more it hears,
            the better the region fits in, and the less it follows a prompt that asks for something else.
        iterations: at most the tokens that touch the region; the checkpoint's default is lowered to that.
        The other arguments, and the errors, are those of :meth:`generate`.
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
        """Replace the seconds [start, end) of a sound of any length, at most one clip of it.

        audio, sample_rate, options: as for :meth:`inpaint`, which is given the clip around the region;
            ``iterations`` beyond the region's tokens, up to those of a clip, are lowered to them.
        The result has the sound's own length, mono at the model's rate, and keeps every sample outside the region.
        ``waveform`` and ``mel`` are those of the whole sound, the other tensors those of the clip.
        Raises ValueError naming the argument, its value and what is allowed.
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

        audio: [S] or [C, S] as for :meth:`inpaint`, but of any length. Mixed to mono and resampled, it begins the
            result sample for sample, but for its last 20 ms, over which the continuation fades in.
        iterations: of each clip's length; lowered to the tokens that are drawn there.
        What is drawn continues the last 40 % of a clip, and then itself, with the next seed each time. ``waveform``
        and ``mel`` of the result are those of the whole sound, the other tensors those of what was drawn last.
        The other arguments, and the errors, are those of :meth:`generate`.
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
        """Draw a share of the tokens of a sound again, chosen at random, from ``prompt``.

        audio: as for :meth:`inpaint`; cropped or padded with silence to one clip. All of the result comes
            from the codec.
        strength: the share, 0 to 1: small for a variation, large for a sound that only starts from ``audio``; at least
            one token is drawn. iterations: lowered to the tokens that are drawn.
        The other arguments, and the errors, are those of :meth:`generate`.
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
        """Make a sound that repeats without a seam: a second on either side of its wrap is drawn again.

        audio: as for :meth:`redraw`, of any length from 0.14 seconds; what is redrawn is at most half of it.
        The other arguments, and the errors, are those of :meth:`generate`.
        """
        return variations.loop(
            self.synthesizer, audio, sample_rate, prompt, seed=seed, progress=progress, **options,
        )  # fmt: skip

    def fit(self, out: Output, seconds: float, *, progress: Progress | None = None) -> Output:
        """Give one finished sound another length, 1 to 30 seconds.

        A shorter one is cropped and fades out over 20 ms. A longer one is continued as by :meth:`extend`, under its own
        prompt and settings, with the seed after its own. ``waveform`` and ``mel`` are those of the whole sound.
        Raises ValueError for an output of several sounds, and for a length that isn't allowed.
        """
        return variations.fit(self.synthesizer, out, seconds, progress=progress)

    def nearest(self, prompt: str, count: int = 3) -> Nearest:
        """The wordings of training that are nearest to ``prompt``, and whether the model knows it.

        A composition is cut at "then", "while", "and", "followed by" and the like, and each part is looked at alone.
        Results of :meth:`generate` carry the same. count: of sounds for each part.
        Raises ValueError for bad input, and for a checkpoint without a vocabulary.
        """
        return self.synthesizer.nearest(prompt, count)

    def log_mel(self, audio: np.ndarray | Tensor, sample_rate: int) -> Tensor:
        """What the model sees of a sound of any length: [S] or [C, S] -> natural-log mel [F, M]."""
        return self.synthesizer.log_mel(audio, sample_rate)

    def compile(self) -> AudioDEAR:
        """Sample in a few fixed shapes, through torch.compile, and on CUDA by replaying graphs. Returns itself.

        For servers with a GPU: the first generations of each batch size wait for the compiler, and on a CPU the later
        ones are hardly faster. Sounds stay the same up to rounding.
        Raises ValueError for a model whose attention is "full".
        """
        self.model.compile_sampling()
        return self

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


def best_dtype(device: torch.device, width: int = 0) -> torch.dtype:
    """The precision in which the weights of a masked model, float16 on disk, are loaded.

    width: of its backbone. With instructions for bfloat16 a CPU decodes a wide model in half the time; a narrow one
        would gain a tenth, and in float32 it gives the same sounds on all CPUs.
    """
    if device.type == "cuda":
        return torch.float16
    wide = device.type == "cpu" and width >= WIDE
    return torch.bfloat16 if wide and torch.cpu._is_avx512_bf16_supported() else torch.float32


def check_device(device: torch.device | str | None, name: str = "device") -> torch.device:
    """A device that works; None: CUDA, else MPS, else the CPU. Raises ValueError naming ``name``."""
    if device is None:
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # the meta device has no values to give back
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        raise ValueError(f"{name} must be one of this machine such as cpu, cuda or mps, got {str(device)!r}") from None
    return checked
