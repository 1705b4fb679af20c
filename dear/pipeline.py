"""A text-to-audio model in one object, loaded from a checkpoint and published as one: :class:`AudioDEAR`."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch

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
from dear.conditioning import build_text_encoder
from dear.hub import Progress, telling
from dear.inpainting import Inpainter

WIDE = 512  # of a backbone: from here on its matrix products take most of the time


class AudioDEAR(Inpainter):
    """A text-to-audio model ready for use: its checkpoint here, its sounds in the classes below."""

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
        progress: Progress | None = None,
    ) -> AudioDEAR:
        """Load a checkpoint.

        source: None for the bundled one; a folder; or "owner/name" on the Hub.
        variant: "student", "teacher", ...; None for the checkpoint's default.
        revision, token: of a Hub repository.
        device: None for CUDA, else MPS, else the CPU. dtype: of the masked model in memory; None for float16
            on CUDA, which loses nothing of the weights, for bfloat16 on a CPU with AVX-512's instructions for it where
            the model is wide (the paper's sizes), and for float32 elsewhere.
        progress: is called with the bytes of a download so far and all of its bytes, one download after another; it
            must not raise. None: bars on a terminal.
        Raises CheckpointError, ConfigError or EncoderError (all ValueError), before anything is built where possible.
        """
        device = check_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype must be a floating torch.dtype such as torch.bfloat16, got {dtype!r}")
        with telling(progress):
            folder = resolve(source, variants=None if variant is None else (variant,), revision=revision, token=token)
            config = load_config(folder)
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
        )

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
