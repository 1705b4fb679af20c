"""Training states on disk: damage and full disks."""

from __future__ import annotations

import resource

import pytest
from regression import Regression, config, states

from training.engine.state import StateError
from training.engine.trainer import train


def test_a_flipped_bit_of_a_state_is_noticed(tmp_path):
    train(Regression(), config(steps=5), tmp_path, "run", max_steps=3)
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    weights = next(iter(states(tmp_path)["ema"].values())).numpy().tobytes()
    place = whole.index(weights) + len(weights) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(StateError, match=r"state\.pt is damaged .its digest is not the one that it holds."):
        train(Regression(), config(steps=5), tmp_path, "run")
    path.write_bytes(whole)
    train(Regression(), config(steps=5), tmp_path, "run")
    assert states(tmp_path)["step"] == 5


def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    task = Regression()
    train(task, config(steps=5), tmp_path, "run", max_steps=3)
    before = (tmp_path / "state.pt").read_bytes()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # writing fails, as on a full disk
        with pytest.raises(OSError, match=r"File too large: '.*state\.pt'"):
            train(Regression(), config(steps=5), tmp_path, "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))
    train(Regression(), config(steps=5), tmp_path, "run")
