"""The documentation as it came with this version, for those who ask an agent about cmesh.

An installed cmesh has the pages in the package; a tree has them in `docs/`.
"""

from pathlib import Path

from cmesh.errors import UsageError

__all__ = ["index", "names", "page"]

_PACKAGE = Path(__file__).parents[1]
_INDEX = "llms.txt"


def index() -> str:
    """Return the list of pages with a line on each, in the form of https://llmstxt.org.

    Raises:
        UsageError: this installation came without pages.
    """
    return _read(_INDEX)


def names() -> list[str]:
    """Return the names of the pages, sorted; empty where they did not come along."""
    return sorted(path.stem for path in _directory().glob("*.md") if path.stem != "README")


def page(name: str) -> str:
    """Return a page as Markdown.

    Raises:
        UsageError: there is no such page.
    """
    # INVARIANT: a name is one of those listed, so that no path comes from outside.
    if name not in names():
        raise UsageError(f"there is no page `{name}`", hint="read cmesh://docs for their names")
    return _read(f"{name}.md")


def _directory() -> Path:
    packed = _PACKAGE / "pages"
    return packed if packed.is_dir() else _PACKAGE.parent / "docs"


def _read(name: str) -> str:
    try:
        return (_directory() / name).read_text("utf-8")
    except FileNotFoundError as error:
        raise UsageError("the documentation did not come with this installation") from error
