"""Batches that are loaded ahead, and compiled networks."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch
from regression import Regression, config

from dear.config import ConfigError
from training.engine.trainer import train


def test_batches_are_loaded_ahead_and_no_further(tmp_path):
    task, seen = Regression(), []
    loss = task.loss

    def slow(batch, generator):
        time.sleep(0.05)
        seen.append(max(task.asked))
        return loss(batch, generator)

    task.loss = slow
    train(task, config(steps=8), tmp_path, "run")
    assert seen == [min(3 + step, 7) for step in range(8)]
    assert sorted(task.asked) == list(range(8))


class Compiling(Regression):
    def compile(self) -> None:
        self.module.compile()


def test_compiled_blocks_learn_the_same_and_leave_the_average_free(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"compile must be false for a task without compile\(\), got True"):
        train(Regression(), config(compile=True), tmp_path / "refused", "run")
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    plain = train(Regression(), config(steps=5), tmp_path / "plain", "run")
    task = Compiling()
    compiled = train(task, config(steps=5, compile=True), tmp_path / "compiled", "run")
    assert task.module._compiled_call_impl is not None and compiled._compiled_call_impl is None
    for one, other in zip(plain.state_dict().values(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
