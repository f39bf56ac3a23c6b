"""Runner manifests: how to start an agent CLI headless and how to read it. Data, not code.

The files are ours, in `manifests/`; a mistake in one is found when it is loaded.
"""

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cmesh.errors import ConfigError
from cmesh.model import Profile

__all__ = ["PLACEHOLDERS", "Credential", "Manifest", "Options", "load_manifests", "parse_manifest"]

PLACEHOLDERS = frozenset({"task_id", "home", "tmp", "directory", "model", "cost_usd"})
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def _known(text: str) -> str:
    unknown = set(_PLACEHOLDER.findall(text)) - PLACEHOLDERS
    if unknown:
        raise ValueError(f"unknown placeholder `{{{min(unknown)}}}`")
    return text


Template = Annotated[str, AfterValidator(_known)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Credential(_Table):
    """How the program takes its key; the variable's value is never in an argv."""

    variable: str
    base_url_variable: str = ""


class Options(_Table):
    """Arguments that are added only when there is something to say."""

    model: tuple[Template, ...] = ()
    cost_usd: tuple[Template, ...] = ()


class Manifest(_Table):
    """One runner.

    Attributes:
        program: what to look for on the login shell's `PATH`; empty = the configuration's argv.
        argv: arguments after the program; the prompt always goes to standard input.
        profiles: arguments by profile; a profile that is not named cannot run.
        env: variables set for the agent, on top of `PATH`, `LANG`, `HOME` and `TMPDIR`.
    """

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    program: str = ""
    parser: Literal["claude-stream-json", "output"]
    argv: tuple[Template, ...]
    version_argv: tuple[str, ...] = ()
    reports_cost: bool
    install_hint: str = ""
    profiles: dict[Profile, tuple[Template, ...]]
    options: Options = Options()
    credential: Credential | None = None
    env: dict[str, Template] = {}


def parse_manifest(text: str, *, source: str) -> Manifest:
    """Read one manifest; `source` names it in errors.

    Raises:
        ConfigError: it is not TOML, or a key is missing, unknown or of the wrong form.
    """
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"runner manifest `{source}`: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise ConfigError(f"runner manifest `{source}`: `{key}`: {first['msg']}") from error


@cache
def load_manifests() -> dict[str, Manifest]:
    """Return the built-in manifests by name; reads the package's files once.

    Raises:
        ConfigError: one of them is broken.
    """
    folder = resources.files("cmesh.runner") / "manifests"
    manifests = [
        parse_manifest(entry.read_text(encoding="utf-8"), source=entry.name)
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    ]
    return {manifest.name: manifest for manifest in manifests}
