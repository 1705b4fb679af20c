"""Links that restore the settings of a generation."""

from urllib.parse import parse_qsl

import pytest

from dear.ui.link import Change, add_change, read_changes, read_link, read_variant, write_changes, write_link
from dear.ui.model_registry import ModelRegistry


def test_a_link_restores_all_that_a_sound_follows_from(student):
    out = student.generate("a <b>dog</b> & 🐶 نباح?", seed=2**53 - 1, num_samples=3, cfg_scale=2.5, temperature=0.3)
    query = dict(parse_qsl(write_link(out)[1:]))
    settings, notices = read_link(query, student)
    assert notices == []
    again = student.generate(num_samples=settings.pop("variations"), **settings)
    assert (again.tokens == out.tokens).all()
    assert read_variant(query, ModelRegistry(student), None) == (student, [])


def test_a_link_names_its_variant(student, tiny_folder):
    models = ModelRegistry(student, str(tiny_folder))
    teacher = models.get(None, "teacher")
    assert read_variant({"variant": "teacher"}, models, None) == (teacher, [])
    assert "variant=teacher" in write_link(teacher.generate("rain", seed=1, steps=1))
    assert read_variant({}, models, None) == (student, [])
    own, notices = read_variant({"variant": "<x>"}, models, None)
    assert own is student
    assert notices == ["The link's variant must be one of student, teacher, got '<x>'; it is ignored."]


def test_a_link_carries_a_length_and_a_negative_prompt(student):
    out = student.fit(student.generate("rain", seed=3, negative_prompt="a dog & more"), 2.5)
    values, notices = read_link(dict(parse_qsl(write_link(out)[1:])), student)
    assert (values["seconds"], values["negative_prompt"], notices) == (2.5, "a dog & more", [])
    assert "seconds" not in write_link(student.generate("rain", seed=3))


def test_a_link_to_a_varied_sound_holds_its_source_and_its_changes(student):
    source = student.generate("rain & more", seed=3, iterations=2)
    one = add_change(
        student.vary(source.sound[0], source.sample_rate, 0.5, "rain & more", seed=8), source, Change(0.5, 8)
    )
    two = add_change(student.loop(one.sound[0], one.sample_rate, "rain & more", seed=9), one, Change(None, 9))
    assert write_link(two) == f"{write_link(source)}&then=vary+0.5+8%2C+loop+9"
    values, notices = read_link(dict(parse_qsl(write_link(two)[1:])), student)
    assert (values["seed"], values["iterations"], values["then"], notices) == (3, 2, "vary 0.5 8, loop 9", [])


def test_changes_are_read_as_they_are_written():
    changes = [Change(0.05, 0), Change(None, 2**53 - 1), Change(1.0, 7)]
    assert read_changes(write_changes(changes)) == changes
    assert read_changes(" ") == []
    for text in ("vary 2 5", "vary 5", "loop", "loop -1", "vary 0.3 5 loop 7", "vary . 1", f"loop {2**53}"):
        with pytest.raises(ValueError, match="must"):
            read_changes(text)
    with pytest.raises(ValueError, match="at most 16"):
        read_changes(", ".join(["loop 1"] * 17))


def test_a_bad_value_in_a_link_is_ignored_with_a_notice(student):
    query = {"prompt": "  ", "cfg_scale": "nan", "iterations": "2.5", "steps": "9", "seed": "-1", "variations": "x"}
    settings, notices = read_link(query | {"temperature": "0.5", "other": "1", "weights": "abc"}, student)
    assert settings == {"temperature": 0.5}
    assert len(notices) == 7
    for name, notice in zip(query, notices, strict=False):
        assert notice.startswith(f"The link's {name} must ")
        assert notice.endswith("; it is ignored.")
    assert "made with other weights" in notices[-1]
