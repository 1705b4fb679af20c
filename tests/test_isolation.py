"""Settings of torch by the caller, for the process or the thread, do not change any sound."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR
from dear.codec.mel_gain import MelGainConfig
from dear.conditioning import build_text_encoder


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
    "deterministic": deterministic,
    "device": lambda: torch.device("meta"),
}


def work(folder, variant: str) -> list[torch.Tensor]:
    """The results of all methods of a model, including its loading."""
    model = AudioDEAR.from_pretrained(folder, variant=variant, device="cpu")
    first = model.generate(["a dog", "rain"], seed=3)
    streamed = list(model.stream("a dog", seed=1))
    sound = first.waveform[0]
    outs = [
        first,
        streamed[-1],
        model.draft(streamed[1]),
        model.inpaint(sound, 16000, 0.1, 0.4, "rain", seed=2),
        model.extend(sound, 16000, 0.5, "rain", seed=2),
        *model.generate_many(["a", "b"], seed=4),
    ]
    return [each for out in outs for each in (out.waveform, out.mel, out.tokens, out.order)]


@pytest.fixture(autouse=True)
def own_text_encoders(monkeypatch):
    """Each model loads its own text encoder, in the state that is tested."""
    monkeypatch.setattr("dear.pipeline.build_text_encoder", build_text_encoder)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{variant: (folder, results)}, each with another vocoder."""
    config, made = tiny_config(), {}
    for variant, vocoder in {"student": MelGainConfig(iterations=3), "teacher": config.vocoder}.items():
        folder = tiny_checkpoint(
            tmp_path_factory.mktemp("state") / variant, dataclasses.replace(config, vocoder=vocoder)
        )
        made[variant] = folder, work(folder, variant)
    return made


@pytest.mark.parametrize("variant", ["student", "teacher"])
@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_the_state_of_torch(checkpoints, variant, state):
    folder, wanted = checkpoints[variant]
    with STATES[state]():
        found = work(folder, variant)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
        assert not one.requires_grad
        assert not one.is_inference() or state == "inference"


def test_what_is_set_is_left_as_it_was(checkpoints):
    folder, _ = checkpoints["student"]
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.enable_grad():
        model = AudioDEAR.from_pretrained(folder, device="cpu")
        for _ in model.stream("a dog", seed=1):
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_default_device().type == "meta"
            assert torch.is_grad_enabled()
