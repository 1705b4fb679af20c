"""Tango 2, its distillation ConsistencyTTA, and TangoFlux, at the published sizes, in diffusers' own classes.

As in :mod:`dear.evaluation.bench.peers`: random weights, and text encoders left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dear.evaluation.bench.peers import (
    DECODED,
    OOBLECK,
    diffusion_job,
    latent_job,
    random_tensor,
    require,
)
from dear.evaluation.bench.timing import Job, Meter, Setting

# configs/diffusion_model_config.json of declare-lab/tango. 200 steps and a guidance of 3 are inference.py's defaults;
# the scheduler is Stable Diffusion 2.1's DDPM.
TANGO2: dict[str, Any] = {
    "sample_size": (32, 2),
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "upcast_attention": True,
}
# configs/tango_diffusion_light.json of Bai-YT/ConsistencyTTA. Its guidance is an input, of 256 values here; one pass.
CONSISTENCY_TTA: dict[str, Any] = {
    **TANGO2,
    "block_out_channels": (256, 512, 1024, 1024),
    "time_cond_proj_dim": 256,
}
DDPM = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
# configs/tangoflux_config.yaml of declare-lab/TangoFlux. Its README samples with 50 steps and a guidance of 4.5; all
# 645 latents (30 s) are denoised and decoded, then cropped.
TANGOFLUX: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 6,
    "num_single_layers": 18,
    "attention_head_dim": 128,
    "num_attention_heads": 8,
    "joint_attention_dim": 1024,
    "pooled_projection_dim": 1024,
    "guidance_embeds": False,
}
TANGOFLUX_LENGTH = 645
TANGOFLUX_SECONDS = TANGOFLUX_LENGTH * 2048 / 44100
TEXT = 16  # word pieces of the prompt: assumed, texts are padded to the longest only
NOTES = f"random weights, text encoding left out, {TEXT} word pieces assumed"


def tango2_job(setting: Setting) -> Job:
    """Tango 2."""
    require("diffusers")
    from diffusers import DDPMScheduler, UNet2DConditionModel

    network = setting.place("tango2", lambda: UNet2DConditionModel(**TANGO2))
    text = random_tensor((2 * setting.batch, TEXT, 1024), setting)
    return latent_job(
        "tango2",
        setting,
        network,
        lambda x, t: network(x, t, encoder_hidden_states=text).sample,
        scale=3.0,
        notes=NOTES,
        scheduler=DDPMScheduler(**DDPM),
    )


def consistency_tta_job(setting: Setting) -> Job:
    """ConsistencyTTA, one step."""
    require("diffusers")
    from diffusers import UNet2DConditionModel

    network = setting.place("consistency-tta", lambda: UNet2DConditionModel(**CONSISTENCY_TTA))
    text = random_tensor((setting.batch, TEXT, 1024), setting)
    guidance = random_tensor((setting.batch, 256), setting)
    return latent_job(
        "consistency-tta",
        setting,
        network,
        lambda x, t: network(x, t, encoder_hidden_states=text, timestep_cond=guidance).sample,
        scale=None,
        notes=NOTES,
        steps=1,
    )


def tangoflux_job(setting: Setting) -> Job:
    """TangoFlux."""
    require("diffusers")
    from diffusers import AutoencoderOobleck, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    class Flow(FlowMatchEulerDiscreteScheduler):
        """The interface of diffusion's schedulers."""

        init_noise_sigma = 1.0

        def scale_model_input(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    network = setting.place("tangoflux", lambda: FluxTransformer2DModel(**TANGOFLUX))
    decoder = setting.place("oobleck", lambda: AutoencoderOobleck(**OOBLECK))
    text = random_tensor((2 * setting.batch, TEXT + 1, 1024), setting)  # the duration is one more token
    pooled = random_tensor((2 * setting.batch, 1024), setting)
    text_ids = torch.zeros(TEXT + 1, 3, device=setting.device)
    audio_ids = torch.arange(TANGOFLUX_LENGTH, device=setting.device)[:, None].expand(-1, 3).float()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return network(
            x,
            timestep=(t / 1000).expand(len(x)).to(x.dtype),
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=text_ids,
            img_ids=audio_ids,
        ).sample

    decoded = TANGOFLUX_LENGTH if setting.timed is None else DECODED

    def finish(meter: Meter, latents: Tensor) -> None:
        with meter.stage("codec", TANGOFLUX_LENGTH / decoded):
            decoder.decode(latents[:, :decoded].mT)

    notes = f"stereo at 44.1 kHz, always {TANGOFLUX_SECONDS:.1f} s, {NOTES}"
    if decoded < TANGOFLUX_LENGTH:
        notes += f"; decoder timed on {decoded} of {TANGOFLUX_LENGTH} latents, multiplied"
    return diffusion_job(
        "tangoflux",
        setting,
        network,
        denoise,
        Flow(num_train_timesteps=1000),
        50,
        (TANGOFLUX_LENGTH, 64),
        4.5,
        finish,
        (decoder,),
        TANGOFLUX_SECONDS,
        notes,
    )


FAMILY: dict[str, Callable[[Setting], Job]] = {
    "tango2": tango2_job,
    "consistency-tta": consistency_tta_job,
    "tangoflux": tangoflux_job,
}
