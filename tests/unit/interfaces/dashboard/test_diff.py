"""A patch as a page shows it."""

# pyright: reportPrivateUsage=false

import pytest
from markupsafe import Markup

from cmesh.interfaces.dashboard.colouring import coloured
from cmesh.interfaces.dashboard.colours import Colours
from cmesh.interfaces.dashboard.diff import (
    COLOURED_CHARACTERS,
    LINE_CHARACTERS,
    PIECE_CHARACTERS,
    DiffFile,
    diff_files,
    pieces,
)

PATCH = """\
diff --git a/app.py b/app.py
index 1..2 100644
--- a/app.py
+++ b/app.py
@@ -1,4 +1,4 @@ def one():
 def one():
-    return "<b>"
+    return 1  # \u202eevil

 x = 1
diff --git a/.claude/settings.json b/.claude/settings.json
new file mode 100644
--- /dev/null
+++ b/.claude/settings.json
@@ -0,0 +1 @@
+{}
\\ No newline at end of file
"""


def shown(text: str) -> list[DiffFile]:
    """Return a patch with all the colours that there are for it."""
    marked = {piece: coloured(piece[0], "\n".join(piece[1])) for piece in pieces(text)}
    return diff_files(text, colours={one: lines for one, lines in marked.items() if lines})


def test_lines_are_numbered_on_both_sides_and_counted():
    app, settings = diff_files(PATCH.replace("\n\n", "\n \n"), frozenset({".claude/settings.json"}))
    assert (app.path, app.added, app.deleted, app.flagged) == ("app.py", 1, 1, False)
    assert [(line.kind, line.old, line.new) for line in app.lines] == [
        ("hunk", 0, 0),
        ("same", 1, 1),
        ("del", 2, 0),
        ("add", 0, 2),
        ("same", 3, 3),
        ("same", 4, 4),
    ]
    assert (settings.path, settings.flagged) == (".claude/settings.json", True)
    assert settings.about == ["new file mode 100644"]
    assert [line.kind for line in settings.lines] == ["hunk", "add", "note"]


def test_syntax_is_coloured_by_classes_and_texts_are_escaped():
    [app, _settings] = shown(PATCH)
    html = Markup("\n").join(line.text for line in app.lines)
    assert '<span class="k">def</span>' in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "style=" not in html
    assert "&lt;U+202E&gt;evil" in html


@pytest.mark.parametrize("name", ["x.unknown", "no-ending", "x.html", "x.js", "Makefile", "x.md"])
def test_no_file_s_text_becomes_markup(name: str):
    evil = "+<script>alert(1)</script>\n+*/ --> ]]> <img src=x onerror=y>\n+\n"
    text = f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -0,0 +1,3 @@\n{evil}"
    [file] = shown(text)
    assert len(file.lines) == 4
    for line in file.lines:
        plain = line.text.replace('<span class="', "").replace("</span>", "")
        assert "<" not in plain.replace("<script", "<") or "&lt;" in line.text
        assert "<script" not in line.text
        assert "<img" not in line.text


def test_what_is_no_patch_and_what_is_huge_does_no_harm():
    assert diff_files("") == []
    assert diff_files("\x00\xff nothing\n@@ -1 +1 @@\n+x") == []
    [file] = diff_files("diff --git a/x.py b/x.py\n@@ -1 +1 @@\n+" + "x" * 1_000_000)
    assert len(file.lines[1].text.striptags()) <= LINE_CHARACTERS
    [odd] = diff_files("diff --git x y\n@@ -99999999999 +1 @@\n+x\n@@ -1,2 +3,4 @@\n+y")
    assert [line.kind for line in odd.lines] == ["hunk", "add"]


def patch_of(lines: list[str], name: str = "a.py") -> str:
    body = "".join(f"+{line}\n" for line in lines)
    return f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}"


def test_colours_are_given_to_short_pieces_of_the_beginning():
    text = patch_of(["  "] * 18_000) + patch_of(["\u200b" * LINE_CHARACTERS])
    assert list(pieces(text)) == list(pieces(patch_of(["  "] * 18_000)))
    found = list(pieces(patch_of(["  "] * (COLOURED_CHARACTERS // 4))))
    assert len(found) > 1
    assert max(sum(map(len, lines)) for _name, lines in found) < PIECE_CHARACTERS
    _blank, wide = diff_files(text)
    assert wide.lines[-1].text.startswith("&lt;U+200B&gt;")


def test_a_long_name_in_many_hunks_costs_no_more_than_the_patch():
    hunks = "@@ -1 +1 @@\n+i\n" * 2_000
    name = "\x01" * 20_000 + "/" + "\x01" * 20_000 + ".py"
    patch = f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n{hunks}"
    sent = sum(len(name) + sum(map(len, lines)) for name, lines in pieces(patch))
    assert 0 < sent <= COLOURED_CHARACTERS
    [file] = diff_files(patch)
    assert file.added == 2_000


def test_marks_that_do_not_fit_the_lines_are_left_out():
    [piece] = pieces(patch_of(["<b>", "x"]))
    [file] = diff_files(patch_of(["<b>", "x"]), colours={piece: ["<b>"]})
    assert [line.text for line in file.lines[1:]] == ["&lt;b&gt;", "x"]


LIMIT_S = 20.0
# Each takes this lexer a third of a second of a processor: some 150 s for all.
SLOW = [("x.dts", (f"{number:03d}{'a' * 3_990}",)) for number in range(400)]


@pytest.mark.anyio
async def test_what_is_not_coloured_in_time_stays_plain_and_the_next_page_has_a_new_process():
    colours, quick = Colours(limit_s=2), ("x.py", ("def one():", ""))
    try:
        found = await colours.of([quick, *SLOW])
        assert found[quick][0].startswith('<span class="k">def</span>')
        assert len(found) < len(SLOW)
        assert colours._process is None
        assert await colours.of([quick]) == {quick: found[quick]}
    finally:
        await colours.close()


@pytest.mark.anyio
async def test_a_process_that_is_gone_is_begun_again():
    colours, piece = Colours(limit_s=LIMIT_S), ("x.py", ("pass",))
    try:
        assert await colours.of([piece])
        process = colours._process
        assert process is not None
        process.kill()
        await process.wait()
        assert await colours.of([piece])
    finally:
        await colours.close()
