"""Download and upload against a Hub on this machine.

The file is long because all its tests share one server and its published checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import gradio as gr
import huggingface_hub
import pytest
import torch
import yaml
from factory import tiny_checkpoint, tiny_config
from hub_server import READ, WRITE, Blob, hub_server, in_use
from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars
from webpage import build_tabs, function

import dear
from dear.card import Facts, anatomy, front_matter, model_card
from dear.checkpoint import BUNDLED, CheckpointError, load_config, resolve
from dear.cli import main
from dear.conditioning import EncoderError
from dear.conditioning.files import fetch, fetch_weights
from dear.pipeline import AudioDEAR
from dear.ui.model_registry import ModelRegistry
from dear.ui.tabs import model as tab

NAME = "someone/sounds"
ROOT = Path(dear.__file__).parents[1]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with an empty cache, which huggingface_hub uses in place of the real one."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    with hub_server() as server, in_use(server, tmp_path / "home"):
        yield server


@pytest.fixture
def published(hub, tiny_folder):
    """The Hub with the tiny checkpoint of both variants; returns the commit."""
    return hub.add(NAME, tiny_folder)


@pytest.fixture
def load():
    """``from_pretrained`` on the CPU."""
    return lambda source=NAME, **options: AudioDEAR.from_pretrained(source, device="cpu", **options)


def refused(*parts: str, source: str = NAME, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence, sentence
    return sentence


def stored(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blobs(hub) -> list[str]:
    return sorted(path.name for path in (hub.home / "hub").rglob("blobs/*"))


def test_only_what_a_variant_needs_is_fetched_and_once(hub, published, tiny_folder):
    folder = resolve(NAME)
    needed = {"config.json", "README.md", "student.safetensors", "codec/vae.safetensors"}
    assert set(stored(folder)) == needed
    assert stored(folder) == {name: data for name, data in stored(tiny_folder).items() if name in needed}
    assert folder.name == published
    hub.requests.clear()
    assert resolve(NAME) == folder
    assert not [path for path in hub.paths("GET") if "resolve" in path or path.endswith(".safetensors")]
    assert set(stored(resolve(NAME, variants=("teacher",)))) == needed | {"teacher.safetensors"}
    with pytest.raises(CheckpointError, match="variant must be one of student, teacher, got 'painter'"):
        resolve(NAME, variants=("painter",))


def test_a_configuration_alone_is_one_small_file(hub, published):
    assert set(stored(resolve(NAME, variants=()))) == {"config.json"}
    assert hub.paths("GET")[-1].endswith("/config.json")


def test_branches_tags_and_commits_are_pinned(hub, published, load, tmp_path):
    other = hub.add(NAME, tiny_checkpoint(tmp_path / "other", seed=1))
    hub.repositories[NAME].refs |= {"v1": published, "topic/next": other}
    old, new = resolve(NAME, revision=published), resolve(NAME)
    assert (old.name, new.name) == (published, other)
    assert resolve(NAME, revision="v1") == old
    assert resolve(NAME, revision="topic/next") == new
    assert load(revision="v1").digest != load().digest
    refused("at v9 (RevisionNotFoundError)", "config.json from " + hub.url, "branch, tag or commit", revision="v9")
    for bad in ("", 5):
        refused(f"revision must be a branch, tag or commit of a Hub repository, got {bad!r}", revision=bad)


def test_a_page_takes_all_variants_from_one_commit(hub, published, load, tmp_path):
    model = load()
    assert model.commit == published
    teacher = load(variant="teacher").digest
    hub.add(NAME, tiny_checkpoint(tmp_path / "other", seed=1))
    assert load(variant="teacher").digest != teacher
    assert ModelRegistry(model, NAME).get(None, "teacher").digest == teacher


def test_a_download_tells_its_bytes(hub, published, load, tiny_folder, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # of bars alone
    reports = []
    load(progress=lambda done, total: reports.append((done, total)))
    # Progress falls only once, since the configuration is a separate download.
    assert sum(after[0] < before[0] for before, after in pairwise(reports)) <= 1
    files = [tiny_folder / "student.safetensors", *(tiny_folder / "codec").iterdir()]
    done, total = reports[-1]
    assert done == total >= sum(path.stat().st_size for path in files)


def test_the_page_loads_from_the_hub_and_shows_the_bytes(hub, published, load, student, tiny_folder, tmp_path):
    models = ModelRegistry(student, str(tiny_folder))
    run = function(build_tabs(models, tmp_path, tab.TAB).page, "load")
    first, *between, last = (list(changes.values()) for changes in run(tab.HUB, NAME, "", "teacher"))
    assert "Loading" in first[1]
    assert all(re.search(r"Downloaded [\d.]+ of [\d.]+ MB|Loading", step[0]) for step in between)
    assert any("Downloaded" in step[0] for step in between)
    status, kept, *_ = last
    choice = models.choice(kept)
    assert "Loaded." in status and (choice.source, choice.revision, choice.variant) == (NAME, published, "teacher")
    assert models.get(kept).commit == published
    with pytest.raises(gr.Error, match="could not download config.json"):
        list(run(tab.HUB, "someone/else", "", ""))


def test_a_branch_that_moves_between_two_downloads_does_not_mix_commits(hub, published, tmp_path, monkeypatch):
    download, other = huggingface_hub.snapshot_download, tiny_checkpoint(tmp_path / "other", seed=1)

    def move_after(*args, **options):
        folder = download(*args, **options)
        if hub.repositories[NAME].refs["main"] == published:
            hub.add(NAME, other)
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", move_after)
    assert resolve(NAME).name == published
    assert resolve(NAME).name != published


def test_private_repositories_need_a_token(hub, tiny_folder):
    hub.add(NAME, tiny_folder, private=True)
    refused("config.json from " + hub.url + "/" + NAME, "RepositoryNotFoundError", "hf auth login", "local folder")
    refused("HTTP 401: Invalid credentials", "pass token=", token="hf_wrong")
    refused("LocalTokenNotFoundError", "hf auth login", token=True)
    assert blobs(hub) == []
    resolve(NAME, token=READ)
    assert hub.tokens == {None, "hf_wrong", READ}  # storage would have refused it
    hub.home.joinpath("token").write_text(READ)
    assert resolve(NAME, variants=("teacher",)).joinpath("teacher.safetensors").is_file()


def test_gated_and_absent_repositories_and_files_are_reported(hub, tiny_folder, tmp_path):
    hub.add(NAME, tiny_folder, gated=True)
    for token in (None, READ):
        refused("GatedRepoError", "accept its terms on that page", f"{hub.url}/{NAME} ", token=token)
    for token in (None, READ):
        refused("RepositoryNotFoundError", "check the name", source="someone/else", token=token)
    refused("HFValidationError", "check the name", source="some--one/sounds")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    hub.add("someone/notes", tmp_path)
    refused("config.json from", "RemoteEntryNotFoundError", "it holds no checkpoint", source="someone/notes")


def test_a_variant_without_its_file_is_reported(hub, own_folder, load):
    (own_folder / "student.safetensors").unlink()
    hub.add(NAME, own_folder)
    with pytest.raises(CheckpointError, match=r"student\.safetensors is missing: download"):
        load()


def test_a_cut_connection_is_resumed(hub, published, tiny_folder):
    hub.fail("GET", "student.safetensors", times=2, cut=1000)
    folder = resolve(NAME)
    assert stored(folder)["student.safetensors"] == (tiny_folder / "student.safetensors").read_bytes()
    assert len([path for path in hub.paths("GET") if path.endswith("/student.safetensors")]) == 3


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_keeps_breaking_is_reported_and_the_next_attempt_is_whole(hub, published, tiny_folder, reset):
    hub.fail("GET", "student.safetensors", times=100 if reset else 1, cut=1000, reset=reset)
    hub.fail("GET", "student.safetensors", cut=0)
    refused("student.safetensors", hub.url, "check the network and try again")
    assert not [name for name in blobs(hub) if name.endswith(".incomplete")]
    hub.faults.clear()
    assert stored(resolve(NAME))["student.safetensors"] == (tiny_folder / "student.safetensors").read_bytes()


@pytest.mark.parametrize("links", [True, False])
def test_wrong_bytes_are_refused_and_do_not_stay(hub, published, load, monkeypatch, links):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    hub.fail("GET", "student.safetensors", times=1, wrong=True)
    refused(f"student.safetensors from {hub.url}/{NAME}", "sha256", "removed from the cache; download it again")
    assert load().variant == "student"


@pytest.mark.parametrize("name", ["codec/vae.safetensors", "config.json", "README.md"])
def test_a_file_that_was_damaged_in_the_cache_is_refused_and_fetched_again(hub, published, name):
    path = resolve(NAME) / name
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(name, "removed from the cache")
    assert (resolve(NAME) / name).read_bytes() == data


@pytest.mark.parametrize("status", [403, 408, 429, 500])
def test_a_hub_that_refuses_for_now_leaves_the_cache_in_use(hub, published, status):
    folder = resolve(NAME)
    hub.fail("HEAD", "", status=status)
    assert resolve(NAME) == folder
    refused("teacher.safetensors", f"HTTP {status}", variants=("teacher",))


def test_a_new_commit_counts_when_it_is_whole(hub, published, tmp_path, monkeypatch):
    folder = resolve(NAME)
    new = hub.add(NAME, tiny_checkpoint(tmp_path / "other", seed=1))
    hub.fail("GET", "student.safetensors", status=500)
    assert resolve(NAME, revision="main") == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(NAME) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.faults.clear()
    assert resolve(NAME).name == new


def test_a_download_that_drips_is_given_up(hub, published, monkeypatch):
    hub.fail("GET", "student.safetensors", drip=0.05)
    monkeypatch.setattr("dear.transfer.SLOWEST", 10**9)
    monkeypatch.setattr("dear.transfer.PATIENCE", 2.0)
    refused("student.safetensors", "TimeoutError: slower than 1000000 kB a second, given up after 2 seconds")


def test_whoever_waits_can_end_a_download(hub, published, load):
    hub.fail("GET", "student.safetensors", drip=0.05)

    class Stop(Exception):
        pass

    def progress(done, total):
        if total > 1_000:  # the weights are on their way
            raise Stop

    with pytest.raises(Stop):
        load(progress=progress)


def test_a_warm_cache_serves_without_network_and_says_nothing(hub, published, load, monkeypatch, capfd, caplog):
    folder, digest = resolve(NAME), load().digest
    resolve(NAME, revision=published)
    hub.fail("HEAD", "config.json", times=1, status=503)
    assert resolve(NAME) == folder
    hub.close()
    enable_progress_bars()
    capfd.readouterr()
    caplog.clear()
    assert load().digest == digest
    assert resolve(NAME, revision=published) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load().digest == digest
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    refused("teacher.safetensors", "OfflineModeIsEnabled", "unset HF_HUB_OFFLINE", variants=("teacher",))
    refused("OfflineModeIsEnabled", f"{hub.url}/someone/else", source="someone/else")


def test_a_cold_cache_without_network_is_one_sentence(hub, published, capfd):
    hub.close()
    refused("config.json from " + hub.url, "ConnectError", "check the network", "or name a local folder")
    assert capfd.readouterr() == ("", "")


def test_a_silent_or_broken_hub_is_not_waited_for(hub, published, monkeypatch):
    hub.fail("HEAD", "config.json", times=1, status=500)
    refused("HTTP 500", "try again later")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    hub.fail("HEAD", "config.json", times=1, delay=3)
    refused("ReadTimeout", "check the network")


def test_the_environment_names_endpoint_cache_and_offline_mode(hub, published):
    """huggingface_hub reads it when it is imported, so this takes a process."""
    resolve(NAME, variants=())
    code = (
        "import sys; from dear.__main__ import main\n"
        "sys.exit(10 * main(['info', '--model', 'someone/sounds']) + main(['info', '--model', 'someone/else']))"
    )
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub.home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["config"]["name"] == "tiny"
    assert done.stderr.count("\n") == 1
    assert f"could not download config.json from {hub.url}/someone/else (OfflineModeIsEnabled)" in done.stderr


def test_encoders_come_by_the_same_way(hub, tmp_path):
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "pytorch_model.bin": b"weights"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    hub.add("someone/t5", tmp_path)
    folder = fetch("someone/t5", ["config.json", "tokenizer.json"], "conditioning.t5")
    assert set(stored(folder)) == {"config.json", "tokenizer.json"}
    assert fetch_weights("someone/t5", "conditioning.t5").read_bytes() == b"weights"
    (tmp_path / "model.safetensors").write_bytes(b"better")
    hub.add("someone/t5", tmp_path)
    hub.fail("GET", "model.safetensors", times=1, wrong=True)
    message = r"^conditioning\.t5: model\.safetensors from .*/someone/t5 is damaged .*or name a folder that holds them$"
    with pytest.raises(EncoderError, match=message):
        fetch_weights("someone/t5", "conditioning.t5")
    assert fetch_weights("someone/t5", "conditioning.t5").read_bytes() == b"better"
    hub.close()
    assert fetch_weights("someone/t5", "conditioning.t5").read_bytes() == b"better"
    with pytest.raises(EncoderError, match=r"conditioning\.t5: could not download config\.json .* check the network"):
        fetch("someone/else", ["config.json"], "conditioning.t5")


def test_saving_keeps_weights_sounds_and_card(tiny_folder, load, tmp_path):
    model = load(tiny_folder, variant="teacher")
    folder = model.save_pretrained(tmp_path / "saved")
    assert set(stored(folder)) == {"config.json", "README.md", "teacher.safetensors", "codec/vae.safetensors"}
    for name in ("teacher.safetensors", "codec/vae.safetensors"):
        assert stored(folder)[name] == stored(tiny_folder)[name]
    assert stored(folder)["README.md"].decode() == "# tiny\n\nThis copy holds the variant `teacher` alone.\n"
    again = load(folder)
    assert (again.variant, again.digest) == ("teacher", model.digest)
    sounds = [one.generate("rain", seed=3).waveform for one in (model, again)]
    assert torch.equal(*sounds)
    before = stored(folder)
    assert again.save_pretrained(folder) == folder  # over itself
    assert stored(folder) == before
    assert os.listdir(tmp_path) == ["saved"]


def test_saving_loses_nothing(own_folder, load, tmp_path):
    before = stored(own_folder)
    with pytest.raises(CheckpointError, match=r"must not hold other variants than student.* with teacher"):
        load(own_folder).save_pretrained(own_folder)
    with pytest.raises(CheckpointError, match=r"must be float32 or float16 to be saved, got torch\.bfloat16"):
        load(own_folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "new")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="folder must be new, empty, or an earlier checkpoint"):
        load(own_folder).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="folder must be a path, got 5"):
        load(own_folder).save_pretrained(5)
    assert stored(own_folder) == before


def test_what_is_pushed_comes_back_bit_for_bit(hub, tiny_folder, load):
    model = load(tiny_folder)
    url = model.push_to_hub(NAME, private=True, token=WRITE, commit_message="First sounds")
    repository = hub.repositories[NAME]
    assert repository.private
    assert url == f"{hub.url}/{NAME}/commit/{repository.refs['main']}"
    assert repository.messages == ["initial commit", "First sounds"]
    pulled = load(token=READ)
    assert pulled.digest == model.digest
    assert pulled.config.variants == {"student": model.config.variants["student"]}
    for one, other in zip(pulled.model.state_dict().values(), model.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(pulled.generate("rain", seed=1).waveform, model.generate("rain", seed=1).waveform)


def test_a_folder_is_pushed_with_all_variants_and_a_card(hub, own_folder, capsys, monkeypatch):
    (own_folder / "README.md").unlink()
    (own_folder / "notes.txt").write_text("not part of a checkpoint")
    monkeypatch.setenv("HF_TOKEN", WRITE)
    assert main(["push", str(own_folder), NAME]) == 0
    repository = hub.repositories[NAME]
    first = repository.refs["main"]
    assert capsys.readouterr().out == f"{hub.url}/{NAME}/commit/{first}\n"
    assert not repository.private
    files = {name: blob.data for name, blob in repository.commits[first].items()}
    assert files.pop("README.md").decode() == model_card(load_config(own_folder))
    assert files.pop(".gitattributes")
    assert files == {name: data for name, data in stored(own_folder).items() if name != "notes.txt"}
    assert repository.messages[-1] == "Upload tiny: student, teacher"
    # A card that someone wrote there is not replaced by a generated one, and nothing new is no commit.
    repository.commit(repository.commits[first] | {"README.md": Blob(b"# Mine\n")}, "Write the card")
    assert main(["push", str(own_folder), NAME]) == 0
    assert capsys.readouterr().out.endswith(f"/commit/{repository.refs['main']}\n")
    assert len(repository.messages) == 3


def test_a_push_replaces_the_checkpoint_in_one_commit(hub, published, own_folder, load, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITE)
    repository = hub.repositories[NAME]
    held = repository.commits[published]
    repository.commit(held | {"codec/vocoder.safetensors": Blob(b"old", lfs=True), "cat.png": Blob(b"png")}, "More")
    tiny_checkpoint(own_folder, seed=1)
    assert main(["push", str(own_folder), NAME, "--revision", "next"]) == 0
    assert repository.find("main") != repository.find("next")
    assert repository.messages[2:] == ["Upload tiny: student, teacher"]
    files = {name: blob.data for name, blob in repository.commits[repository.refs["next"]].items()}
    assert files == stored(own_folder) | {"cat.png": b"png"}
    assert load(revision="next").digest != load().digest


def test_a_push_that_would_leave_out_weights_or_show_them_is_refused(hub, published, load):
    with pytest.raises(CheckpointError, match=rf"{hub.url}/{NAME} also holds teacher\.safetensors"):
        load().push_to_hub(NAME, token=WRITE)
    with pytest.raises(CheckpointError, match=rf"private must be False for {hub.url}/{NAME}, which exists"):
        load().push_to_hub(NAME, token=WRITE, private=True)
    assert hub.repositories[NAME].refs["main"] == published


def test_failed_pushes_are_one_sentence_and_leave_no_commit(hub, own_folder, load, capsys, monkeypatch):
    model = load(own_folder)

    def fails(*parts, repository=NAME, **options):
        with pytest.raises(CheckpointError) as caught:
            model.push_to_hub(repository, **options)
        assert "\n" not in str(caught.value)
        for part in parts:
            assert part in str(caught.value), caught.value

    fails(f"could not push to {hub.url}/{NAME}", "HTTP 401", "hf auth login")
    fails("HTTP 403", "one of the required permission", token=READ)
    assert NAME not in hub.repositories
    hub.fail("PUT", "", times=1, status=403)
    fails(f"could not push to {hub.url}/{NAME}", token=WRITE)
    hub.fail("POST", "commit/main", times=1, status=500)
    fails("HTTP 500", "try again later", token=WRITE)
    assert hub.repositories[NAME].messages == ["initial commit"]
    model.card = "---\nlicense: [\n---\n"
    fails("Invalid metadata in README.md", token=WRITE)
    fails("repository must be owner/name on the Hub, got 'sounds'", repository="sounds")
    assert hub.repositories[NAME].messages == ["initial commit"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails("OfflineModeIsEnabled", "unset HF_HUB_OFFLINE", token=WRITE)
    capsys.readouterr()
    (own_folder / "teacher.safetensors").unlink()
    for arguments, part in (
        ([str(own_folder), NAME], "teacher.safetensors is missing"),
        (["./none", NAME], "config.json is missing: none is not a checkpoint"),
        ([str(own_folder)], "the following arguments are required: OWNER/NAME"),
    ):
        assert main(["push", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert part in captured.err


def test_a_card_tells_what_is_known_and_no_more():
    bare = model_card(tiny_config())
    front = yaml.safe_load(bare.split("---\n")[1])
    assert front == {
        "library_name": "audiodear",
        "pipeline_tag": "text-to-audio",
        "tags": ["text-to-audio", "energy-scoring", "diffusion"],
    }
    assert "# AudioDEAR tiny\n\nText to 0.625 seconds of sound (16 kHz, mono)" in bare
    assert "| student (default) |" in bare
    assert "##" not in bare
    assert "None" not in bare
    facts = Facts(
        license="cc-by-nc-4.0",
        datasets=("agkphysics/AudioSet", "1: odd"),
        about="It knows dogs.",
        data="Ten hours of dogs.",
        licences="Thanks to the dogs.",
        metrics={"FD": 12.34567},
        measured_with="python -m dear.evaluation.score --reference DIR",
        made_with="python -m training.train",
        git_commit="5ba5f16",
    )
    full = model_card(tiny_config(), facts)
    front = yaml.safe_load(full.split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert front["datasets"] == ["agkphysics/AudioSet", "1: odd"]
    assert front["metrics"] == ["FD"]
    assert "| FD | 12.35 |" in full
    for fact in (facts.about, facts.data, facts.licences, facts.measured_with, facts.made_with, facts.git_commit):
        assert fact in full
    titles = [line for line in full.splitlines() if line.startswith("## ")]
    assert titles == ["## Data", "## Licences", "## Measured", "## How it was made"]
    assert "## Licences" not in model_card(tiny_config(), dataclasses.replace(facts, licences=None))


def test_the_bundled_card_has_the_common_parts():
    card = (BUNDLED / "README.md").read_text()
    assert card.startswith(front_matter(("text-to-audio", "energy-scoring", "distillation"), "cc-by-4.0"))
    assert f"\n\n{anatomy(load_config(BUNDLED))}\n\n" in card
