"""What the site has beside `docs/`: the pages and files of the tree that those link to.

A page is written for a code host, where `../ARCHITECTURE.md` is a link. On the site pages of the
tree's root become pages, other files are published as they are, and directories are only named.
"""

import re
from pathlib import Path, PurePosixPath
from typing import cast

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MERMAID = ROOT / ".cache" / "site" / "mermaid.min.js"

# Where a page of the tree's root would take the place of another one, on some disks.
_RENAMED = {"README.md": "about.md", "ARCHITECTURE.md": "overview.md"}
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(?ms)^```.*?^```$")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw with our own copy of mermaid; without one a drawing is shown as its text.

    The theme would load it from elsewhere.
    """
    if MERMAID.is_file():
        config.extra_javascript.append("mermaid.min.js")
    else:
        options = cast("dict[str, dict[str, object]]", config["mdx_configs"])
        options["pymdownx.superfences"].pop("custom_fences", None)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside `docs/`, and the schemas."""
    wanted = {path for page in DOCS.rglob("*.md") for path in _outside(page)}
    wanted |= set((ROOT / "schemas").glob("*.json"))
    for path in sorted(wanted):
        if path.is_file():
            uri = _uri(path)
            files.append(File.generated(config, uri, content=path.read_bytes()))
    if MERMAID.is_file():
        files.append(File.generated(config, "mermaid.min.js", abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links out of `docs/` to where the site has their targets."""
    source = _source(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target:
            return match[0]
        there = (source.parent / target).resolve()
        if there.is_dir():
            return text
        if not there.is_file():
            raise PluginError(f"{page.file.src_uri} links to {target}, which is not there")
        up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)
        return f"[{text}]({up}{_uri(there)}{anchor})"

    pieces: list[str] = []
    end = 0
    for code in _FENCED.finditer(markdown):
        pieces += [_LINK.sub(moved, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _LINK.sub(moved, markdown[end:])])


def _outside(page: Path) -> set[Path]:
    """Return the files outside `docs/` that a page links to, and those which these link to."""
    found: set[Path] = set()
    ahead = [page]
    while ahead:
        source = ahead.pop()
        text = _FENCED.sub("", source.read_text(encoding="utf-8"))
        for match in _LINK.finditer(text):
            there = (source.parent / match[2]).resolve()
            if ":" in match[2] or there in found or there.is_relative_to(DOCS):
                continue
            if there.is_file():
                found.add(there)
                ahead += [there] if there.suffix == ".md" else []
    return found


def _uri(path: Path) -> str:
    """Return where the site has a file of the tree."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return _RENAMED.get(name, name)


def _source(uri: str) -> Path:
    """Return the file of the tree that a page of the site is made of."""
    for name, renamed in _RENAMED.items():
        if uri == renamed:
            return ROOT / name
    return DOCS / uri if (DOCS / uri).is_file() else ROOT / uri
