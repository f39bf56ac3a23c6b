"""The rules for paths beside Windows' own parser, and links out of a root beside the disk's."""

from pathlib import Path
from random import Random

import pytest

from cmesh.platform.windows import names
from tests.unit.platform.test_names import PIECES, STARTS
from tests.windows.wine import ask, windows_path

pytestmark = pytest.mark.system

HOW_MANY = 4000


def texts(seed: int) -> list[str]:
    chance = Random(seed)
    drawn = (chance.choices(PIECES, k=chance.randrange(8)) for _ in range(HOW_MANY))
    return [chance.choice(STARTS) + "".join(pieces) for pieces in drawn]


def test_a_normal_form_is_what_windows_makes_of_the_text(tmp_path: Path) -> None:
    asked = {text: normal for text in texts(1) if (normal := names.normal(text)) is not None}
    assert len(asked) > HOW_MANY // 20
    full = ask("full_name", list(asked), tmp_path)
    for (text, normal), there in zip(asked.items(), full, strict=True):
        plain = str(there).removeprefix("\\\\?\\")
        if text.startswith("\\\\?\\"):
            plain = "\\".join(part for part in plain.split("\\") if part not in {"", "."})
        assert (plain[0].upper() + plain[1:]).rstrip("\\") == normal.rstrip("\\"), text


def test_a_link_out_of_a_root_has_a_real_name_outside(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for place in (root / "in", out / "deep"):
        place.mkdir(parents=True)
    (root / "link").symlink_to(out)  # Wine shows it as a directory, and its real name as Windows'
    inside, outside = windows_path(root / "in"), windows_path(root / "link" / "deep")
    asked = [inside, inside.upper() + "\\.\\none", outside, outside + "\\none", outside + "\\.."]
    found = [names.normal(str(one)) or "" for one in ask("real_name", asked, tmp_path)]
    below = [names.is_below(one, windows_path(root)) for one in found]
    assert below == [True, True, False, False, False], found
    assert found[2] == windows_path(out / "deep")


def test_a_device_and_a_share_are_not_looked_at(tmp_path: Path) -> None:
    asked = ["C:\\con", "C:\\work\\NUL.txt", "\\\\nobody.invalid\\share\\x", "C:x", "C:\\a:b", "x"]
    found = ask("real_name", asked, tmp_path)
    assert [names.normal(str(one)) for one in found] == [None] * len(asked)
