"""The check of a patch as a tool result: our words as they are, the worker's paths fenced."""

import shlex

from cmesh.daemon.patch_answers import CheckPatchView, ObjectionView
from cmesh.interfaces.mcp.fence import Fence
from cmesh.interfaces.mcp.render import NAMES_CHARACTERS, call_text
from cmesh.text import defang, one_line

__all__ = ["check_fields", "check_next"]

SOURCE = "worker"


def check_fields(view: CheckPatchView, mark: Fence) -> dict[str, object]:
    """Return a check; no path that the patch chose stands outside of a fence."""
    fields: dict[str, object] = {
        "task_id": view.task_id,
        "root": one_line(view.root, NAMES_CHARACTERS),
        "applies": view.applies,
        "base_commit": view.base_commit if view.base_commit.isalnum() else "",
        "base_relation": view.base_relation,
        "ahead": view.ahead,
        "behind": view.behind,
        "dirty_base": view.dirty_base,
        "files": view.files,
        "bytes": view.bytes,
        "added": view.added,
        "deleted": view.deleted,
        "flagged_count": view.flagged_count,
    }
    if view.objections:
        fields["objections"] = [_objection(one, mark) for one in view.objections]
    for name, values in (
        ("changed", view.changed),
        ("flagged", view.flagged),
        ("collisions", view.collisions),
    ):
        if values:
            fields[name] = _names(values, mark)
    return fields


def check_next(view: CheckPatchView) -> str:
    """Return what usually follows: the patch is read, and a person applies it."""
    if not view.applies:
        return "tell the user `objections`; do not apply the patch by other means"
    read = call_text("get_result", task_id=view.task_id, part="patch")
    command = f"cmesh apply {view.task_id} -C {shlex.quote(one_line(view.root, NAMES_CHARACTERS))}"
    return f"{read}; then tell the user what it flags, and to run `{command}`"


def _objection(one: ObjectionView, mark: Fence) -> dict[str, object]:
    shown: dict[str, object] = {"code": one.code, "why": one.why, "user_may": one.next}
    if one.names:
        shown |= {"paths": _names(one.names, mark), "count": one.count}
    return shown


def _names(names: list[str], mark: Fence) -> str:
    lines = [defang(one_line(name, NAMES_CHARACTERS)) for name in names]
    return mark.text("\n".join(lines), SOURCE, NAMES_CHARACTERS)
