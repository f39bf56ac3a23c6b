"""The directories of a wish as they really are, since a rule means what its path leads to.

Whoever plans a change may have made a link; the person who confirms it is shown where that
leads. Looked at once more when it is applied.
"""

import os
from pathlib import Path
from typing import cast

from cmesh.errors import PlanGone, UsageError
from cmesh.setup.plan import Plan, Wish
from cmesh.tomltext import read_table

__all__ = ["require_in_place", "resolved"]


def resolved(wish: Wish) -> Wish:
    """Return the wish with its directories behind all links. Blocks on the disk.

    Raises:
        UsageError: one is no directory here.
    """
    found: dict[str, str] = {}
    for key in ("directory", "repository"):
        text: str = getattr(wish, key)
        path = Path(text).expanduser()
        if not text or not path.is_absolute() or ".." in path.parts:
            continue  # missing, or for the plan to refuse
        if not path.is_dir():
            raise UsageError(f"`{key}` names `{text}`, which is no directory here")
        found[key] = os.path.realpath(path)
    return wish.model_copy(update=found)


def require_in_place(plan: Plan) -> None:
    """Check that the paths of a plan's rules still mean what was shown. Blocks on the disk.

    Raises:
        PlanGone: one leads elsewhere by now.
    """
    for block in plan.blocks:
        rule = cast("dict[str, list[str]]", read_table(block.text)[block.direction]["allow"][0])  # type: ignore[index]
        for path in (*rule.get("paths", ()), *rule.get("repos", ())):
            if os.path.realpath(path) != path:
                raise PlanGone(f"`{path}` leads elsewhere than when the change was planned")
