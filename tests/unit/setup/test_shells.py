"""Which start files get the PATH lines, and that they go out as they came in."""

from pathlib import Path

import pytest

from cmesh.setup.shells import BEGIN, END, Block, added, is_on_path, plan_blocks, removed

BLOCK = Block(path=Path("/h/.bashrc"), line="export PATH=there")


def files(home: Path, shell: str, *there: str) -> list[str]:
    for name in there:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    found = plan_blocks(home=home, shell=shell, config=home / ".config", zsh=home)
    return [str(block.path.relative_to(home)) for block in found]


@pytest.mark.parametrize(
    ("shell", "there", "wanted"),
    [
        ("/bin/bash", [], [".bashrc", ".profile"]),
        ("/bin/bash", [".bash_profile", ".profile"], [".bashrc", ".bash_profile"]),
        ("/bin/bash", [".bash_login", ".profile"], [".bashrc", ".bash_login"]),
        ("/usr/bin/zsh", [], [".zshrc"]),
        ("/usr/bin/zsh", [".bashrc"], [".bashrc", ".profile", ".zshrc"]),
        ("/usr/bin/fish", [], [".config/fish/conf.d/cmesh.fish"]),
        (
            "/bin/bash",
            [".config/fish/x"],
            [".bashrc", ".profile", ".config/fish/conf.d/cmesh.fish"],
        ),
        ("/bin/sh", [], [".profile"]),
        ("", [".zshrc"], [".profile", ".zshrc"]),
    ],
)
def test_the_start_files_are_those_of_the_user_s_shells(
    shell: str, there: list[str], wanted: list[str], tmp_path: Path
) -> None:
    assert files(tmp_path, shell, *there) == wanted


@pytest.mark.parametrize(
    "before", [b"", b"alias x=y\n", b"alias x=y", b"\n\n", b"\xff\xfe not text", b"a\r\nb\r\n"]
)
def test_what_is_added_goes_out_byte_for_byte(before: bytes) -> None:
    text, newline = added(before, BLOCK)
    after = before + text
    assert added(after, BLOCK) == (b"", False), "it is added once"
    assert removed(after, newline=newline) == before
    assert removed(after + b"later\n", newline=newline) == before + b"later\n"


def test_a_file_without_the_lines_stays_what_it_is() -> None:
    for text in (b"", b"x\n", f"{BEGIN}\n".encode(), f"{END}\n{BEGIN}\n".encode()):
        assert removed(text, newline=True) == text


def test_a_directory_is_on_path_when_an_entry_is_it() -> None:
    directory = Path("/h/.local/bin")
    assert is_on_path(directory, "/usr/bin:/h/.local/bin")
    assert not is_on_path(directory, "/usr/bin:/h/.local/bin2")
    assert not is_on_path(directory, "")
