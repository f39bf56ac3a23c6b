"""The traps of a hostile working directory, one file an agent: data, as manifests are.

`common.toml` is planted for every agent, `NAME.toml` for the one of that name. What plants them
and looks whether they were sprung is `cmesh.runner.selftest`.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cmesh.policy.mistakes import wanted
from cmesh.runner.manifest import parse_table

__all__ = ["COMMON", "PLACEHOLDER", "Api", "Traps", "load_traps", "parse_traps"]

COMMON = "common"

Api = Literal["messages", "responses", "generate"]
"""Which API an agent's model speaks; `cmesh.runner.selftest.model` answers each of them."""

PLACEHOLDER = re.compile(r"\{\{(?:(trap):([A-Za-z0-9_-]+)|(decoy|canary))\}\}")
_BRACES = re.compile(r"\{\{.*?\}\}")


def _filled(text: str) -> str:
    unknown = [found for found in _BRACES.findall(text) if not PLACEHOLDER.fullmatch(found)]
    if unknown:
        raise wanted(f"a known placeholder, not `{unknown[0]}`")
    return text


def _beneath(path: str) -> str:
    if path.startswith("/") or not set(path.split("/")).isdisjoint({"", ".", ".."}):
        raise wanted("a path below the directory")
    return path


class Traps(BaseModel):
    """What is planted for one agent.

    Attributes:
        api: of the agent's model; empty = there is nothing to answer it with, so no self-test.
        base_path: what the agent expects its `base_url` to end with.
        files: text by path below the directory. `{{trap:NAME}}` is the path of a program that
            leaves a mark of that name, `{{decoy}}` the URL of a model server that nobody should
            ask, `{{canary}}` a word that should reach no model. One that begins with `#!` is
            made a program.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    api: Api | Literal[""] = ""
    base_path: str = Field(default="", pattern=r"^(/[a-z0-9._-]+)*$")
    files: Mapping[
        Annotated[str, AfterValidator(_beneath)], Annotated[str, AfterValidator(_filled)]
    ]


def parse_traps(text: str, *, source: str) -> Traps:
    """Read one file of traps; `source` names it in errors.

    Raises:
        ConfigError: it is not TOML, or a key is missing, unknown or of the wrong form.
    """
    return parse_table(Traps, text, what=f"traps `{source}`")


@cache
def load_traps(name: str) -> Traps | None:
    """Return the traps of an agent, the common ones among them; None = it has none.

    Reads the package's files once.

    Raises:
        ConfigError: one of them is broken.
    """
    own = _read(name)
    common = _read(COMMON)
    if own is None or common is None or name == COMMON:
        return None
    return own.model_copy(update={"files": {**common.files, **own.files}})


def _read(name: str) -> Traps | None:
    file = resources.files("cmesh.runner.traps") / f"{name}.toml"
    if not file.is_file():
        return None
    return parse_traps(file.read_text(encoding="utf-8"), source=f"{name}.toml")
