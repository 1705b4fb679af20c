"""The budget of a load: loads are refused before any read or download, and end when time is over or nobody waits."""

import dataclasses
import threading
import time

import pytest
from factory import tiny_checkpoint, tiny_config
from hub_server import hub_server, in_use

from dear.budget import Budget, BudgetError, current, limited
from dear.checkpoint import CheckpointError, check_sources, load_codec, load_config, load_model
from dear.codec.audioldm import AudioLDMVocoderConfig
from dear.conditioning.paper import PaperConfig
from dear.pipeline import AudioDEAR
from dear.ui import model_registry
from dear.ui.model_registry import MAX_LOADS, ModelRegistry

NAME = "someone/sounds"


class StoppedError(Exception):
    pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with hub_server() as server, in_use(server, tmp_path / "home"):
        yield server


def test_weights_are_charged_to_the_budget(tiny_folder):
    config = load_config(tiny_folder)
    with limited(Budget(1e9, 60)):
        model = load_model(tiny_folder, config, "student")
    needed = sum(4 * value.numel() for value in model.state_dict().values())  # float32
    with limited(Budget(needed, 60)):
        load_model(tiny_folder, config, "student")
        with pytest.raises(BudgetError, match="of which 0.00 GB are left"):
            load_codec(tiny_folder, config)
    with limited(Budget(needed - 1, 60)), pytest.raises(BudgetError, match=r"student.safetensors needs .* of memory"):
        load_model(tiny_folder, config, "student")
    load_model(tiny_folder, config, "student")  # no limit outside of a block


def test_a_load_ends_when_its_time_is_over_or_nobody_wants_it(tiny_folder):
    config = load_config(tiny_folder)
    with limited(Budget(1e9, 0.0)), pytest.raises(BudgetError, match="could not be loaded within 0 seconds"):
        load_model(tiny_folder, config, "student")
    calls = []

    def wanted():
        calls.append(1)
        if len(calls) > 3:
            raise StoppedError

    with limited(Budget(1e9, 60, still_wanted=wanted)), pytest.raises(StoppedError):
        load_model(tiny_folder, config, "student")
    assert len(calls) == 4  # between tensors


def test_a_download_above_the_budget_is_ended(hub, tiny_folder, student):
    hub.add(NAME, tiny_folder)
    hub.fail("GET", "student.safetensors", drip=0.05)  # it would take an hour
    began = time.monotonic()
    with limited(Budget(100_000, 60)), pytest.raises(BudgetError, match="the download has .* GB; one model may have"):
        AudioDEAR.from_pretrained(NAME, device="cpu")
    with limited(Budget(1e9, 1.0)), pytest.raises(BudgetError, match="within 1 seconds"):
        AudioDEAR.from_pretrained(NAME, device="cpu")

    def unwanted():
        raise StoppedError

    with limited(Budget(1e9, 60, still_wanted=unwanted)), pytest.raises(StoppedError):
        AudioDEAR.from_pretrained(NAME, device="cpu")
    assert time.monotonic() - began < 60


def test_a_page_loads_no_encoder_or_codec_that_the_configuration_of_a_stranger_names(tiny_folder, monkeypatch):
    config = load_config(tiny_folder)
    named = {
        "vocoder.source": dataclasses.replace(config, vocoder=AudioLDMVocoderConfig(source="/etc")),
        "conditioning.t5": dataclasses.replace(
            config, conditioning=PaperConfig(t5="/etc", dim=config.conditioning.dim)
        ),
        "conditioning.clap": dataclasses.replace(config, conditioning=PaperConfig(clap="some/body")),
    }
    for field, changed in named.items():
        check_sources(changed)  # outside a budget, any source is allowed
        with limited(Budget(1e9, 60, published=True)), pytest.raises(CheckpointError, match=f"{field} must be "):
            check_sources(changed)
    with limited(Budget(1e9, 60, published=True)):
        check_sources(config)
        check_sources(dataclasses.replace(config, conditioning=PaperConfig()))


def test_one_visitor_cannot_hold_both_places(tiny_folder, student, monkeypatch):
    models = ModelRegistry(student, str(tiny_folder), folders=True)
    inside, go_on = threading.Semaphore(0), threading.Event()
    budgets = []

    def load(*_, **options):
        budgets.append(current())
        inside.release()
        go_on.wait(60)
        return student

    monkeypatch.setattr(AudioDEAR, "from_pretrained", load)

    def begin(caller, progress=None):
        thread = threading.Thread(target=models.load, args=(str(tiny_folder), None, None, progress, caller))
        thread.start()
        return thread

    threads = [begin("a")]
    assert inside.acquire(timeout=60)
    with pytest.raises(CheckpointError, match="One of your models is being loaded"):
        models.load(str(tiny_folder), None, None, None, "a")
    threads.append(begin("b"))
    assert inside.acquire(timeout=60) and MAX_LOADS == 2

    def stopped(done, total):
        assert (done, total) == (0, 0)
        raise StoppedError

    with pytest.raises(StoppedError):  # a load that waits for a place can be stopped
        models.load(str(tiny_folder), None, None, stopped, "c")
    go_on.set()
    for thread in threads:
        thread.join(60)
    models.load(str(tiny_folder), None, None, None, "a")  # again, once the first has ended
    assert {(each.size, each.seconds) for each in budgets} == {(model_registry.MAX_BYTES, model_registry.LOAD_SECONDS)}


def test_a_load_within_a_run_has_a_short_budget_and_the_hosts_own_none(tmp_path, tiny_folder, student, monkeypatch):
    models = ModelRegistry(student, str(tiny_folder), folders=True)
    other = models.load(str(tiny_checkpoint(tmp_path / "other", tiny_config(), seed=1)), None, None)
    load, budgets = AudioDEAR.from_pretrained, []

    def noted(*given, **options):
        budgets.append(current().seconds)
        return load(*given, **options)

    monkeypatch.setattr(AudioDEAR, "from_pretrained", noted)
    models.get(other, "teacher")
    models.get(None, "teacher")
    assert budgets == [model_registry.RELOAD_SECONDS, float("inf")]
