"""Rows of Tango 2, ConsistencyTTA and TangoFlux: published sizes, and how often their networks run."""

from types import SimpleNamespace

import pytest
import torch

from dear.evaluation.bench import peers, tango
from dear.evaluation.bench.timing import Meter, Setting
from dear.evaluation.benchmark import ROWS

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")
SMALL_UNET = {"block_out_channels": (32, 32, 32, 32), "attention_head_dim": 8, "layers_per_block": 1}
SMALL_FLUX = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 1,
    "axes_dims_rope": (2, 2, 4),
}


class Constant(torch.nn.Module):
    """A codec that takes no time."""

    config = SimpleNamespace(scaling_factor=1.0)

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def decode(self, latents):
        assert latents.isfinite().all()
        return SimpleNamespace(sample=torch.zeros(self.shape))

    def forward(self, mel):
        return torch.zeros(self.shape)


def test_the_networks_have_their_published_sizes():
    with torch.device("meta"):  # sizes only
        networks = {
            "tango2": diffusers.UNet2DConditionModel(**tango.TANGO2),
            "consistency-tta": diffusers.UNet2DConditionModel(**tango.CONSISTENCY_TTA),
            "tangoflux": diffusers.FluxTransformer2DModel(**tango.TANGOFLUX),
        }
    millions = {name: sum(p.numel() for p in each.parameters()) // 10**6 for name, each in networks.items()}
    # Table 1 says 866 M, 559 M and 516 M. ConsistencyTTA embeds guidance by two layers of its own.
    assert millions == {"tango2": 865, "consistency-tta": 557, "tangoflux": 516}


@pytest.mark.parametrize(
    ("name", "steps", "parts", "batch"),
    [
        ("tango2", 200, {"decode", "codec", "vocoder"}, 4),
        ("consistency-tta", 1, {"decode", "codec", "vocoder"}, 2),
        ("tangoflux", 50, {"decode", "codec"}, 4),
    ],
)
def test_rows_run(monkeypatch, name, steps, parts, batch):
    for config, small in (("TANGO2", SMALL_UNET), ("CONSISTENCY_TTA", SMALL_UNET), ("TANGOFLUX", SMALL_FLUX)):
        monkeypatch.setattr(tango, config, getattr(tango, config) | small)
    monkeypatch.setattr(peers, "LATENTS", (8, 16, 16))
    setting = Setting(2, CPU, torch.float32, 2)
    setting.built.update({"vae": Constant(2, 1, 64, 64), "hifigan": Constant(2, 100), "oobleck": Constant(2, 2, 100)})
    job = tango.FAMILY[name](setting)
    assert isinstance(job.network, diffusers.ModelMixin) and name in ROWS
    seen = []
    job.network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    meter = Meter(CPU)
    job.run(meter)
    assert (job.steps, set(meter.seconds), seen) == (steps, parts, [batch] * min(steps, 2))
