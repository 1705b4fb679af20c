"""The models of a page and its visitors."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from factory import tiny_checkpoint, tiny_config

from dear.checkpoint import CheckpointError
from dear.pipeline import AudioDEAR
from dear.ui.model_registry import ModelChoice, ModelRegistry


def test_visitors_choose_their_models_and_a_failed_load_changes_nothing(tiny_folder, tmp_path, student):
    models = ModelRegistry(student, str(tiny_folder), folders=True)
    with pytest.raises(CheckpointError):
        models.load(str(tmp_path / "nothing"), None, None)
    assert models.get(None) is models.get("") is models.get(models.own) is models.get(None, "student") is student
    teacher = models.get(None, "teacher")
    assert teacher.variant == "teacher"
    assert models.get(None, "teacher") is teacher
    other = tiny_checkpoint(tmp_path / "other", tiny_config(), seed=1)
    chosen = models.load(str(other), None, "teacher")
    assert chosen.origin == str(other)
    text = chosen.to_json()
    assert models.choice(text) == chosen and models.get(text) is models.get(chosen)
    assert models.get(text).variant == "teacher" and models.get(text).digest != teacher.digest
    assert models.get(text, "student").digest != student.digest
    assert models.get(None) is student and models.get(None, "teacher") is teacher  # other visitors keep theirs
    for name in ("x", ["teacher"]):
        with pytest.raises(CheckpointError, match="variant must be one of student, teacher, got "):
            models.get(text, name)
    for wrong in ("no JSON", "5", "[]", '{"x": 1}', "[" * 100_000, text.replace('"teacher"', "7")):
        with pytest.raises(CheckpointError, match="the model must be one that was loaded on this page, got "):
            models.get(wrong)
    fixed = ModelRegistry(student, str(tiny_folder), fixed=True)
    assert fixed.get(text) is student  # whatever a browser asks for


def test_models_that_nobody_used_for_long_are_dropped_and_come_back_if_they_are_the_same(
    tiny_folder, tmp_path, student
):
    models = ModelRegistry(student, str(tiny_folder), folders=True)
    folders = [tiny_checkpoint(tmp_path / f"other-{seed}", tiny_config(), seed=seed) for seed in (1, 2, 3)]
    first, second, third = (models.load(str(folder), None, None) for folder in folders)
    assert [models.in_memory(each) for each in (first, second, third)] == [False, True, True]
    back = models.get(first)  # loaded again
    assert models.get(first) is back and not models.in_memory(second)
    config = (folders[1] / "config.json").read_text()
    (folders[1] / "config.json").write_text(config.replace('"tiny"', '"changed"'))
    with pytest.raises(CheckpointError, match="other-2 has other files than when it was loaded: load it again"):
        models.get(second)
    again = models.load(str(folders[1]), None, None)
    assert again != second and models.get(again).config.name == "changed"
    assert models.get(None) is student  # the page's own stays


def test_the_pages_own_model_stays_when_its_folder_changes(own_folder):
    models = ModelRegistry(AudioDEAR.from_pretrained(own_folder, device="cpu"), str(own_folder), folders=True)
    own = models.get(None)
    assert models.load(str(own_folder), None, None) == models.own and models.get(None) is own
    config = (own_folder / "config.json").read_text()
    (own_folder / "config.json").write_text(config.replace('"tiny"', '"changed"'))
    changed = models.load(str(own_folder), None, None)
    assert models.get(changed).digest == own.digest and models.get(changed).config.name == "changed"
    assert models.get(None) is own
    with pytest.raises(CheckpointError, match="has other files than when it was loaded"):
        models.get(None, "teacher")  # no mixture of old and new


def test_visitors_name_no_folder_unless_the_host_allows_it(tiny_folder, tmp_path, student, monkeypatch, offline):
    models = ModelRegistry(student, str(tiny_folder))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sentences = []
    for name in ("owner/name", "owner/nobody", "/etc", "/nothing", "../etc", "hf://owner/name"):
        with pytest.raises(CheckpointError) as refused:
            models.load(name, None, None)
        sentences.append(str(refused.value).replace(name, "NAME"))
        with pytest.raises(CheckpointError) as again:
            models.get(ModelChoice(name, None, "student", "").to_json())  # as a browser may say
        assert str(again.value).replace(name, "NAME") == sentences[-1]
    assert sentences[0] == sentences[1] and "could not download config.json from" in sentences[0]
    assert set(sentences[2:]) == {"model must be owner/name on the Hub, got 'NAME'"}
    assert models.load(str(tiny_folder), None, "teacher").variant == "teacher"  # the page's own


def test_who_has_a_model_waits_for_nobodys_download(tiny_folder, student, monkeypatch):
    models, begun, go_on = ModelRegistry(student, str(tiny_folder), folders=True), threading.Event(), threading.Event()
    teacher = models.get(None, "teacher")

    def load(*_, **options):
        begun.set()
        go_on.wait(60)
        return teacher

    monkeypatch.setattr(AudioDEAR, "from_pretrained", load)
    loading = threading.Thread(target=models.load, args=(str(tiny_folder), None, None))
    loading.start()
    assert begun.wait(60)
    assert [models.get(None, name) for name in ("student", "teacher")] == [student, teacher]
    go_on.set()
    loading.join()
    assert models.get(None) is student


def test_one_variant_is_loaded_once_for_all_who_ask_at_the_same_time(tiny_folder, student, monkeypatch):
    models, loads = ModelRegistry(student, str(tiny_folder), folders=True), []
    load = AudioDEAR.from_pretrained

    def slowly(*given, **options):
        loads.append(given)
        time.sleep(0.2)
        return load(*given, **options)

    monkeypatch.setattr(AudioDEAR, "from_pretrained", slowly)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: models.get(None, "teacher"), range(4)))
    assert len(loads) == 1 and len(set(map(id, models))) == 1
