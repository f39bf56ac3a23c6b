"""A line on the desktop: the words stay data, whatever they are."""

import base64

import pytest
import tree_sitter
import tree_sitter_powershell

from cmesh.platform.linux.notices import desktop_argv as on_linux
from cmesh.platform.macos.notices import desktop_argv as on_macos
from cmesh.platform.windows.notices import desktop_argv as on_windows
from cmesh.platform.windows.notices import script

BAD = """task '; rm -rf ~ $(x) " \u2019 `n"""


def test_linux_and_macos_get_the_words_as_the_last_argument() -> None:
    assert on_linux(BAD) == ("notify-send", "--app-name=cmesh", "--", BAD)
    assert on_macos(BAD)[-1] == BAD
    assert on_macos(BAD)[:-1] == on_macos("x")[:-1]


@pytest.mark.parametrize("words", ["task 7 succeeded", BAD])
def test_the_script_for_windows_is_powershell_and_has_no_words_of_another(words: str) -> None:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert not parser.parse(script(words).encode()).root_node.has_error
    assert words not in script(words)
    assert base64.b64encode(words.encode()).decode() in script(words)
    assert base64.b64decode(on_windows(words)[-1]).decode("utf-16-le") == script(words)
