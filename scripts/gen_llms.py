"""Write `docs/llms.txt`, the list of pages for agents, from the table of `docs/README.md`.

`python scripts/gen_llms.py` writes; with `--check` it only says whether the file is current,
with exit status 1 when it is not. The form is that of https://llmstxt.org.
"""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
TARGET = DOCS / "llms.txt"
HEAD = """\
# cmesh

> cmesh lets the coding agent on one machine hand a scoped, policy-gated task to a coding agent on
> another machine of the same owner, over a private tailnet, and get back an audited result.

## Pages

"""


def main(arguments: list[str]) -> int:
    """Write or check the list; return the exit status."""
    rows = re.findall(
        r"(?m)^\| \[([\w.-]+\.md)\]\(\1\) \| (.*) \|$", (DOCS / "README.md").read_text("utf-8")
    )
    made = HEAD + "".join(
        f"- [{name.removesuffix('.md')}]({name}): {about}\n" for name, about in rows
    )
    missing = {page.name for page in DOCS.glob("*.md")} - {name for name, _ in rows} - {"README.md"}
    if missing:
        print(f"docs/README.md does not list {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    if "--check" not in arguments:
        TARGET.write_text(made, "utf-8")
    elif not TARGET.is_file() or TARGET.read_text("utf-8") != made:
        print("docs/llms.txt is not current: run scripts/gen_llms.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
