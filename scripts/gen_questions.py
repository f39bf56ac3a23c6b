"""Write the questions that the dashboard's audit page offers, from the cookbook in the docs.

`python scripts/gen_questions.py` writes `cmesh/interfaces/questions.json`; with `--check` it only
says whether the file is current, with exit status 1 when it is not.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
COOKBOOK = ROOT / "docs" / "audit-cookbook.md"
QUESTIONS = ROOT / "cmesh" / "interfaces" / "questions.json"
FIELDS = ("group", "question", "sql")


def questions(text: str) -> list[dict[str, str]]:
    """Return each block of SQL with the sentence above it and the heading it stands under."""
    found, group = list[dict[str, str]](), ""
    parts = text.split("\n\n")
    for before, part in pairwise(parts):
        if part.startswith("## "):
            group = part.removeprefix("## ").strip()
        if part.startswith("```sql\n"):
            sql = part.removeprefix("```sql\n").rstrip().removesuffix("```").strip()
            found.append(dict(zip(FIELDS, (group, before.replace("`", ""), sql), strict=True)))
    if len(found) != text.count("```sql") or any("\n" in one["question"] for one in found):
        raise SystemExit(f"{COOKBOOK.name}: a block of SQL has no question of one line above it")
    return found


def main() -> int:
    """Write the file, or check it; return the exit status."""
    wanted = json.dumps(questions(COOKBOOK.read_text("utf-8")), indent=1, ensure_ascii=False)
    current = QUESTIONS.read_text("utf-8") if QUESTIONS.exists() else ""
    if current == wanted + "\n":
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{QUESTIONS.relative_to(ROOT)} is not what the docs make: run {Path(__file__).name}")
        return 1
    QUESTIONS.write_text(wanted + "\n", "utf-8")
    print(f"wrote {QUESTIONS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
