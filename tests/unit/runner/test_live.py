"""What counts as the answer to a live run."""

import pytest

from cmesh.runner.live import PROMPT, is_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ready", True),
        ("Sure.\n\n**Ready.**\n", True),
        (PROMPT, False),
        ("cannot reach model", False),
        ("not ready", False),
        ("", False),
    ],
)
def test_only_the_word_alone_on_the_last_line_is_an_answer(text: str, answer: bool) -> None:
    assert is_answer(text) is answer
