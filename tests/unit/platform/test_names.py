r"""What a path of Windows says for sure: no text that leads elsewhere is taken for one below a root.

Asked of the rules themselves, on any system; tests/windows asks Windows' own parser beside them.
"""

import ntpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmesh.platform.windows import names

ROOT = r"C:\work"
PIECES = (
    "C:", "c:", "D:", "\\", "\\", "/", "..", ".", "...", "work", "WORK", "worker", "a b", "ä", "Ä",
    "CON", "nul.txt", "COM1", "x.", "x ", " x", ":s", "WORK~1", "\\\\?\\", "\\\\.\\", "\\??\\",
    "UNC", "server", "\u0131", "\u017f", "\u212a", "ß", "ss", "\0", "*",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=10).map("".join)
STARTS = ("", ROOT, "c:/WORK", "\\\\?\\C:\\work", "C:\\", "D:/", "\\\\.\\C:\\work")
ALMOST = st.tuples(st.sampled_from(STARTS), TEXTS).map("".join)
MORE = settings(max_examples=500, deadline=None)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("c:\\", "C:\\"),
        (r"c:\work", ROOT),
        ("C:/work\\\\.//", ROOT),
        (r"\\?\C:\work", ROOT),
        (r"C:\work\a b\.git\...x", r"C:\work\a b\.git\...x"),
        (r"C:\Users\Jürgen Müß\工作", r"C:\Users\Jürgen Müß\工作"),
        (r"C:\console\nullable\com10\a~b\notes~1.markdown", None),
        (r"C:\console\nullable\com10\a~b\longer name~1", None),
        ("", None),
        ("work", None),
        (r"\work", None),
        ("/work", None),
        ("C:", None),
        ("C:work", None),
        ("CC:\\work", None),
        ("\u212a:\\work", None),
        (r"C:\work\..", None),
        ("C:/app/../x", None),
        ("C:\\work\0", None),
        (r"\\server\share\work", None),
        ("//server/share", None),
        (r"\\localhost\C$\work", None),
        (r"\\?\UNC\server\share", None),
        (r"\\?\Volume{00000000-0000-0000-0000-000000000000}\work", None),
        (r"\\?\GLOBALROOT\Device\Harddisk0", None),
        (r"\\?\C:/work", None),
        (r"\\.\C:\work", None),
        (r"\\.\pipe\x", None),
        ("//?/C:/work", None),
        (r"\??\C:\work", None),
        (r"C:\CON", None),
        (r"C:\work\nul.txt", None),
        (r"C:\work\Com1 .tar.gz", None),
        ("C:\\work\\lpt\u00b9", None),
        (r"C:\work\aux\x", None),
        (r"C:\work.", None),
        (r"C:\work \x", None),
        (r"C:\work\x...", None),
        (r"C:\work\file:stream", None),
        (r"C:\work::$INDEX_ALLOCATION\x", None),
        (r"C:\PROGRA~1", None),
        (r"C:\work\A~12.TXT", None),
        (r"C:\work\..WORK~1\WORK~1ss", r"C:\work\..WORK~1\WORK~1ss"),  # Windows makes none such
        ("C:\\work\\a\nb", None),
        ("C:\\work\\\ud800", None),
        (r"C:\work\*", None),
    ],
)
def test_a_text_has_a_normal_form_where_windows_knows_one_place_by_it(
    text: str, normal: str | None
) -> None:
    if text.endswith(("notes~1.markdown", "longer name~1")):
        normal = text  # no short names: more than eight letters, or three
    assert names.normal(text) == normal


def test_a_long_path_is_one_and_a_longer_one_is_none() -> None:
    name = "n" * names.COMPONENT_UNITS
    deep = "\\".join(["C:", *[name] * 124])
    assert names.normal(deep) == deep
    assert names.normal(f"{deep}\\{name}") is None
    assert names.normal(f"C:\\{name}n") is None
    assert names.normal("C:\\" + "\U0001f600" * 128) is None  # two units each


@pytest.mark.parametrize(
    ("path", "sure", "possible"),
    [
        (ROOT, True, True),
        (r"C:\WORK\X", True, True),
        (r"C:\worker", False, False),
        (r"D:\work", False, False),
        ("C:\\", False, False),
        ("C:\\wor\u212a", False, True),
    ],
)
def test_case_grants_by_latin_letters_only_and_denies_by_any(
    path: str, sure: bool, possible: bool
) -> None:
    assert names.is_below(path, ROOT) is sure
    assert names.may_be_below(path, ROOT) is possible
    assert names.is_below(path, "C:\\") is path.startswith("C:")


@MORE
@given(ALMOST)
def test_nothing_outside_of_a_root_is_taken_for_inside(text: str) -> None:
    normal = names.normal(text)
    if normal is None or not names.is_below(normal, ROOT):
        return
    # Read anew, by another parser: where the text leads is the root, or below it.
    parts = ntpath.normpath(text.removeprefix("\\\\?\\")).split("\\")
    assert [part.lower() for part in parts[:2]] == ["c:", "work"]
    assert ".." not in text.replace("/", "\\").split("\\")
    for part in parts[1:]:
        assert part == part.rstrip(". ")
        assert ":" not in part
        assert part.partition(".")[0].rstrip().lower() not in {"con", "nul", "com1"}
        base, _, more = part.partition(".")
        is_8_3 = 0 < len(base) <= 8 and len(more) <= 3 and not {" ", "."} & {*base, *more}
        assert not (is_8_3 and base.endswith("~1"))


@MORE
@given(ALMOST, ALMOST)
def test_one_spelling_and_what_is_sure_is_possible(one: str, other: str) -> None:
    path, root = names.normal(one), names.normal(other)
    if path is None or root is None:
        return
    assert names.normal(path) == path
    assert names.is_absolute(path)
    assert names.may_be_below(path, root) or not names.is_below(path, root)
