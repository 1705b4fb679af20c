"""What visitors type, and the sentences that tell them what to change."""

import re

import gradio as gr
import pytest

from dear.ui.components import checks


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (lambda: checks.check_prompt(" \n"), "Type a prompt first."),
        (lambda: checks.check_prompt("x" * 1001), "The prompt has 1,001 characters. Shorten it to 1,000."),
        (lambda: checks.check_prompt("a\0dog"), "The prompt has a control character (U+0000). Remove it."),
        (lambda: checks.resolve_seed(2**53, True), "A seed is a whole number from 0 to 9,007,199,254,740,991."),
        (lambda: checks.resolve_seed(-1, True), "A seed is a whole number from 0 to 9,007,199,254,740,991."),
        (lambda: checks.resolve_seed(0.5, True), "A seed is a whole number from 0 to 9,007,199,254,740,991."),
        (lambda: checks.read_numbers("CFG scales", "1, two", 0, 20), "Write the CFG scales as numbers separated by "),
        (lambda: checks.read_numbers("CFG scales", "", 0, 20), "Write the CFG scales as numbers separated by commas"),
        (lambda: checks.read_numbers("CFG scales", "21", 0, 20), "The CFG scales must be numbers from 0 to 20."),
        (lambda: checks.read_numbers("CFG scales", "nan", 0, 20), "The CFG scales must be numbers from 0 to 20."),
        (lambda: checks.read_numbers("iterations", "1.5", 1, 8, True), "The iterations must be whole numbers from 1"),
        (lambda: checks.check_count(range(13), 12), "That makes 13 sounds. Choose at most 12."),
        (lambda: checks.check_region(3, 3, 10), "The end of the region must come after its start."),
        (lambda: checks.check_region(3, 14, 10), "A region can be at most 10 seconds long."),
    ],
)
def test_a_refusal_is_one_sentence_for_visitors(check, sentence):
    with pytest.raises(gr.Error, match=f"^.{re.escape(sentence)}"):
        check()


def test_what_is_allowed_passes():
    checks.check_prompt("x" * 1000)
    checks.check_count(range(12), 12)
    checks.check_region(3, 13, 10)
    assert checks.read_numbers("CFG scales", " 1, 2.5;3  4,", 0, 20) == [1, 2.5, 3, 4]
    assert checks.resolve_seed(5.0, True) == 5
    assert checks.resolve_seed(2**53 - 1, True) == 2**53 - 1
    assert checks.resolve_seed(5, False) != checks.resolve_seed(5, False)
    assert 0 <= checks.resolve_seed(None, True) < 2**32
