"""The paths of a wish as they really are, since a rule means what its path leads to.

Whoever plans a change may have made a link; the person who confirms it is shown where that
leads. Looked at once more when it is applied.
"""

import os
from pathlib import Path
from typing import cast

from cmesh.errors import PlanGone, UnsafePermissions, UsageError
from cmesh.paths import require_private_file
from cmesh.setup.plan import Plan, Wish
from cmesh.tomltext import read_table

__all__ = ["require_in_place", "resolved"]


def resolved(wish: Wish, base: Path) -> Wish:
    """Return the wish with its directories behind all links. Blocks on the disk.

    Args:
        wish: what is asked of a step.
        base: the directory of `config.toml`, from which a relative `auth_key_file` is taken.

    Raises:
        UsageError: one is no directory here, or the auth key cannot be had from its file.
    """
    if wish.auth_key_file:
        _require_key(wish.auth_key_file, base)
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


def _require_key(text: str, base: Path) -> None:
    """Check that the node will find a key in the file: without one it waits for a person."""
    path = base / Path(text).expanduser()
    hint = f"put the auth key into `{path}`, mode 0600; or leave `auth_key_file` out: then a page"
    hint += " is opened to log in"
    try:
        require_private_file(path, secret=True)
        empty = not path.read_text("utf-8").strip()
    except FileNotFoundError as error:
        raise UsageError(f"the auth key file `{path}` is not there", hint=hint) from error
    except UnsafePermissions as error:
        raise UsageError(f"the auth key file: {error.message}", hint=error.hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the auth key file `{path}` cannot be read", hint=hint) from error
    if empty:
        raise UsageError(f"the auth key file `{path}` is empty", hint=hint)


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
