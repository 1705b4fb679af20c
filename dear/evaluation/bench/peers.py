"""Other models for comparison: AudioLDM, AudioLDM 2 and Stable Audio Open at their published sizes and steps.

They use diffusers' classes with random weights, since time does not depend on weights, so nothing is downloaded. A
generation runs the denoiser with guidance in one doubled batch and the scheduler's step, as in diffusers' pipelines,
then the decoder and, if the model has one, the vocoder. The text encoders, which run once, are left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dear.codec import audioldm
from dear.evaluation.bench.timing import Job, Meter, Setting

# `create_unet_diffusers_config` of `DEFAULT_CONFIG` in diffusers' scripts/convert_original_audioldm_to_diffusers.py,
# which wrote cvssp/audioldm-s-full-v2. AudioLDM's paper samples with 200 DDIM steps.
AUDIOLDM: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    "block_out_channels": (128, 256, 384, 640),
    "layers_per_block": 2,
    "cross_attention_dim": (128, 256, 384, 640),  # the channels of each level: it attends to itself
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 512,
    "class_embeddings_concat": True,
}
# As above, of scripts/convert_original_audioldm2_to_diffusers.py: context_dim 768 (GPT-2) and 1024 (Flan-T5-large), and
# one self-attention layer more. That gives 346.9 M parameters; the model card of cvssp/audioldm2 says 350 M. 200 steps
# are the default of AudioLDM2Pipeline.
AUDIOLDM2: dict[str, Any] = {
    "sample_size": 256,
    **{name: AUDIOLDM[name] for name in ("in_channels", "out_channels", "down_block_types", "up_block_types")},
    "block_out_channels": (128, 256, 384, 640),
    "layers_per_block": 2,
    "cross_attention_dim": [[None, 768, 1024]] * 4,
}
LATENTS = (8, 256, 16)  # of 10.24 s, four frames by four bins each
DDIM = {  # `create_diffusers_schedular` and the DDIMScheduler of both scripts
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
AUDIOLDM2_TEXT = 16  # word pieces of the prompt: assumed, the pipeline pads to the longest only

# model_config.json of stabilityai/stable-audio-open-1.0 through diffusers' scripts/convert_stable_audio.py: the
# defaults of StableAudioDiTModel. 100 steps are the default of StableAudioPipeline, which always denoises and decodes
# all 1024 latents (47.6 s) and then crops. Text is padded to 128, and two durations follow it.
STABLE_AUDIO: dict[str, Any] = {
    "sample_size": 1024,
    "in_channels": 64,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "num_key_value_attention_heads": 12,
    "out_channels": 64,
    "cross_attention_dim": 768,
    "global_states_input_dim": 1536,
    "cross_attention_input_dim": 768,
}
OOBLECK = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 8, 8],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "channel_multiples": [1, 2, 4, 8, 16],
    "sampling_rate": 44100,
}
STABLE_AUDIO_TEXT = 130
STABLE_AUDIO_SECONDS = 1024 * 2048 / 44100
DECODED = 64  # latents that are decoded where steps are sampled; the time of the convolutional decoder is proportional


class MissingError(ValueError):
    """A row lacks a requirement, such as an optional package."""


def require(package: str) -> None:
    """Raises MissingError where ``package`` is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"{package} is not installed (pip install {package})")


def audioldm_job(setting: Setting) -> Job:
    """AudioLDM-S."""
    require("diffusers")
    from diffusers import UNet2DConditionModel

    network = setting.place("audioldm", lambda: UNet2DConditionModel(**AUDIOLDM))
    voice = random_tensor((2 * setting.batch, 512), setting)
    return latent_job(
        "audioldm",
        setting,
        network,
        lambda x, t: network(x, t, encoder_hidden_states=None, class_labels=voice).sample,
        scale=2.5,  # guidance_scale of AudioLDMPipeline
        notes="audioldm-s-full-v2, random weights, text encoding left out",
    )


def audioldm2_job(setting: Setting) -> Job:
    """AudioLDM 2."""
    require("diffusers")
    from diffusers import AudioLDM2UNet2DConditionModel

    network = setting.place("audioldm2", lambda: AudioLDM2UNet2DConditionModel(**AUDIOLDM2))
    generated = random_tensor((2 * setting.batch, 8, 768), setting)
    text = random_tensor((2 * setting.batch, AUDIOLDM2_TEXT, 1024), setting)
    mask = torch.ones(text.shape[:2], dtype=torch.long, device=setting.device)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return network(
            x, t, encoder_hidden_states=generated, encoder_hidden_states_1=text, encoder_attention_mask_1=mask
        ).sample

    return latent_job(
        "audioldm2",
        setting,
        network,
        denoise,
        scale=3.5,  # guidance_scale of AudioLDM2Pipeline
        notes=f"random weights, text encoding and its GPT-2 left out, {AUDIOLDM2_TEXT} word pieces assumed",
    )


def latent_job(
    name: str,
    setting: Setting,
    network: nn.Module,
    denoise: Callable[..., Tensor],
    scale: float | None,
    notes: str,
    steps: int = 200,
    scheduler: Any = None,
) -> Job:
    """A diffusion model on the latents of AudioLDM, with its decoder and vocoder. scheduler: None for DDIM."""
    from diffusers import DDIMScheduler

    vae, vocoder = setting.place("vae", audioldm.autoencoder), setting.place("hifigan", audioldm.hifigan)

    def finish(meter: Meter, latents: Tensor) -> None:
        with meter.stage("codec"):
            mel = vae.decode(latents / vae.config.scaling_factor).sample
        with meter.stage("vocoder"):
            vocoder(mel.squeeze(1))

    scheduler = DDIMScheduler(**DDIM) if scheduler is None else scheduler
    return diffusion_job(
        name, setting, network, denoise, scheduler, steps, LATENTS, scale, finish, (vae, vocoder), 10.24, notes
    )


def stable_audio_job(setting: Setting) -> Job:
    """Stable Audio Open 1.0."""
    require("diffusers")
    require("torchsde")
    from diffusers import AutoencoderOobleck, CosineDPMSolverMultistepScheduler, StableAudioDiTModel
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    network = setting.place("stable-audio-open", lambda: StableAudioDiTModel(**STABLE_AUDIO))
    decoder = setting.place("oobleck", lambda: AutoencoderOobleck(**OOBLECK))
    text = random_tensor((2 * setting.batch, STABLE_AUDIO_TEXT, 768), setting)
    durations = random_tensor((2 * setting.batch, 1, 1536), setting)
    length = network.config.sample_size
    # One position more: the durations come first, as a token.
    angles = get_1d_rotary_pos_embed(
        network.config.attention_head_dim // 2, length + 1, use_real=True, repeat_interleave_real=False
    )
    angles = tuple(each.to(setting.device) for each in angles)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return network(
            x, t[None], encoder_hidden_states=text, global_hidden_states=durations, rotary_embedding=angles
        ).sample

    decoded = length if setting.timed is None else min(DECODED, length)

    def finish(meter: Meter, latents: Tensor) -> None:
        with meter.stage("codec", length / decoded):
            decoder.decode(latents[..., :decoded])

    notes = f"stereo at 44.1 kHz, always {STABLE_AUDIO_SECONDS:.1f} s, random weights, text encoding left out"
    if decoded < length:
        notes += f"; decoder timed on {decoded} of {length} latents, multiplied"
    return diffusion_job(
        "stable-audio-open",
        setting,
        network,
        denoise,
        CosineDPMSolverMultistepScheduler(),  # sigmas 0.3 to 500, second order, as the script writes: its defaults
        100,
        (network.config.in_channels, length),
        7.0,  # guidance_scale of StableAudioPipeline
        finish,
        (decoder,),
        STABLE_AUDIO_SECONDS,
        notes,
    )


def diffusion_job(
    name: str,
    setting: Setting,
    network: nn.Module,
    denoise: Callable[..., Tensor],
    scheduler: Any,
    steps: int,
    shape: tuple[int, ...],
    scale: float | None,
    finish: Callable[[Meter, Tensor], None],
    others: tuple[nn.Module, ...],
    seconds: float,
    notes: str,
) -> Job:
    """A latent diffusion model: ``denoise(x, t)`` at each of ``steps`` on latents of ``shape``, then ``finish``.

    scale: of guidance, which doubles the batch; None: the model needs none. All steps cost the same, so the first
    ``setting.timed`` of them stand for all.
    """
    timed = steps if setting.timed is None else min(setting.timed, steps)

    @torch.no_grad()
    def run(meter: Meter) -> None:
        generator = torch.Generator().manual_seed(0)
        scheduler.set_timesteps(steps, device=setting.device)
        latents = torch.randn(setting.batch, *shape, generator=generator).to(setting.device, setting.dtype)
        latents = latents * scheduler.init_noise_sigma
        with meter.stage("decode", steps / timed):
            for t in scheduler.timesteps[:timed]:
                x = latents if scale is None else torch.cat((latents, latents))
                predicted = denoise(scheduler.scale_model_input(x, t), t)
                if scale is not None:
                    null, conditional = predicted.chunk(2)
                    predicted = null + scale * (conditional - null)
                latents = scheduler.step(predicted, t, latents, generator=generator).prev_sample
        finish(meter, latents.to(setting.dtype))

    described = f"all {steps} steps" if timed == steps else f"timed {timed} of {steps} steps, multiplied"
    precision = str(setting.dtype).removeprefix("torch.")
    return Job(name, run, setting.batch, seconds, network, others, precision, None, steps, described, notes)


def random_tensor(shape: tuple[int, ...], setting: Setting) -> Tensor:
    """Standard normal values, the same in every run, as the setting wants them."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device, setting.dtype)


PEERS: dict[str, Callable[[Setting], Job]] = {
    "audioldm": audioldm_job,
    "audioldm2": audioldm2_job,
    "stable-audio-open": stable_audio_job,
}
