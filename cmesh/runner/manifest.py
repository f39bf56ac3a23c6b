"""Runner manifests: how to start an agent CLI headless and how to read it. Data, not code.

The built-in files are in `manifests/`; those of the owner are read by `own_manifests`. A mistake
in one is found when it is loaded.
"""

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from cmesh.errors import ConfigError
from cmesh.model import Profile
from cmesh.nearest import did_you_mean
from cmesh.policy.mistakes import Problem, describe, key_of, problems, wanted
from cmesh.policy.parse import RUNNER_NAME_PATTERN, RUNNER_NAME_WORDS
from cmesh.policy.tables import TextForm
from cmesh.runner.egress.credentials import Credential, Variable
from cmesh.runner.egress.request import is_name
from cmesh.tomltext import TomlMistake, line_of, read_table

__all__ = [
    "PLACEHOLDERS",
    "REPORTS",
    "Manifest",
    "Network",
    "Options",
    "Session",
    "Versions",
    "built_in_text",
    "load_manifests",
    "manifest_schema",
    "parse_manifest",
    "parse_table",
]

PLACEHOLDERS = frozenset(
    {
        "task_id",
        "session_id",
        "home",
        "tmp",
        "directory",
        "model",
        "cost_usd",
        "turns",
        "base_url",
        "preface",
        "preface_quoted",
        "answer_schema",
        "answer_schema_file",
    }
)
REPORTS = ("turns", "tokens")
"""What a runner may tell while it runs, besides cost, so that the worker can hold it to a limit."""

TableT = TypeVar("TableT", bound=BaseModel)

_VERSION = re.compile(r"\d+(?:\.\d+)+")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_BELOW = r"[^/{}]+(/[^/{}]+)*"
_BELOW_WORDS = 'a path below the home such as ".example/settings.json"'
JSON_DEEP = 32
"""Tables and lists in each other in a variable's text."""

_TELLS: dict[str, tuple[str, ...]] = {
    "claude-stream-json": ("turns", "tokens"),
    "codex-json": ("turns",),
    "gemini-stream-json": ("turns",),
    "opencode-json": ("turns", "tokens"),
    "output": (),
}
"""What each parser reads of it before the run has ended."""

_TELLS_NO_COST = frozenset({"output", "codex-json", "gemini-stream-json"})
"""Parsers whose programs name no cost."""


def _known(text: str) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - PLACEHOLDERS)
    if unknown:
        given, known = f"{{{unknown[0]}}}", sorted(f"{{{name}}}" for name in PLACEHOLDERS)
        meant = did_you_mean(given, known, most=1) or f"known: {', '.join(known)}"
        raise wanted(f"a known placeholder, not `{given}`; {meant}")
    return text


def _host(text: str) -> str:
    if not is_name(text):
        raise wanted('a host name in lower case such as "api.example.com"')
    return text


def _inside(path: str) -> str:
    if not _stays(path):
        raise wanted(_BELOW_WORDS)
    return path


def _pattern(text: str) -> str:
    filled = text.replace("{session_id}", "id")
    if not _stays(filled) or any("**" in part and part != "**" for part in filled.split("/")):
        raise wanted('a pattern of a file below `home` such as "**/{session_id}.json"')
    if set(_PLACEHOLDER.findall(text)) - {"session_id"}:
        raise wanted("no placeholder but `{session_id}`")
    return text


def _stays(path: str) -> bool:
    return {"", ".", ".."}.isdisjoint(path.split("/")) and "\0" not in path


def _known_json(value: JsonValue) -> JsonValue:
    _require_known(value, JSON_DEEP)
    return value


def _require_known(value: JsonValue, deep: int) -> None:
    if not deep:
        raise wanted(f"nothing nested deeper than {JSON_DEEP}")
    if isinstance(value, str):
        _known(value)
    elif isinstance(value, list):
        for item in value:
            _require_known(item, deep - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _known(key)
            _require_known(item, deep - 1)


Template = Annotated[str, AfterValidator(_known)]
InHome = Annotated[str, TextForm(_BELOW, _BELOW_WORDS), AfterValidator(_inside)]
"""A path in the agent's home."""
Pattern = Annotated[str, AfterValidator(_pattern)]
JsonTemplate = Annotated[JsonValue, AfterValidator(_known_json)]


VersionText = Annotated[str, TextForm(r"[0-9]+(\.[0-9]+)+", 'a version such as "1.4"')]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Options(_Table):
    """Arguments that are added only when there is something to say.

    Attributes:
        cost_usd, turns: it keeps to this limit by itself; the worker counts all the same.
        tokens: makes it tell its tokens while it runs; added where there is a limit of them.
        mcp: of a task that may delegate: how the program finds the MCP server at
            `CMESH_MCP_URL` with the token `CMESH_MCP_TOKEN`, both of which it expands itself.
            Added last, as they are.
        system: how it takes `{preface}`, what cmesh tells an agent beside the prompt, as system
            text; `{preface_quoted}` is the same as a string of JSON or TOML.
        answer_schema: how it takes the JSON Schema of an answer, as `{answer_schema}` or by a file
            with it, `{answer_schema_file}`. Without it the schema stands in front of the prompt of
            an agent, and the last JSON object of its final text is the answer.
    """

    model: tuple[Template, ...] = ()
    cost_usd: tuple[Template, ...] = ()
    turns: tuple[Template, ...] = ()
    tokens: tuple[Template, ...] = ()
    mcp: tuple[str, ...] = ()
    base_url: tuple[Template, ...] = ()
    system: tuple[Template, ...] = ()
    answer_schema: tuple[Template, ...] = ()


class Session(_Table):
    """How the program keeps a conversation, and goes on with it in a later turn.

    Attributes:
        id: `forced`: `{session_id}` is the thread's id, which `new` tells the program; `read`:
            the program makes one, and its output says which.
        new: arguments of a first turn.
        resume: arguments of a later one.
        home: the folder in the agent's home that holds conversations; it becomes a link.
        file: pattern of a conversation's file below that folder.
        adds_up_cost: the cost it reports is that of the whole conversation, not of the turn.
        adds_up_tokens: so are the tokens.
        same_directory: it goes on only where it began, by the directory's name.
    """

    id: Literal["forced", "read"] = "forced"
    new: tuple[Template, ...]
    resume: tuple[Template, ...]
    home: InHome
    file: Pattern
    adds_up_cost: bool
    adds_up_tokens: bool = False
    same_directory: bool = False

    @model_validator(mode="after")
    def _knows_its_id(self) -> Self:
        if self.id == "read" and any("{session_id}" in text for text in self.new):
            raise wanted("no `{session_id}`: a first turn has none to read yet", "new")
        return self


class Network(_Table):
    """What the program must reach to work, from a profile with a sandbox."""

    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()


class Versions(_Table):
    """The versions with which a hostile directory was tried, and the next ones like them.

    Attributes:
        first: the lowest that is taken.
        below: the lowest that is not taken any more.
    """

    first: VersionText
    below: VersionText

    def hold(self, said: str) -> bool:
        """Say whether what a program says of itself names one of them; silence does not."""
        found = _VERSION.search(said)
        return found is not None and _key(self.first) <= _key(found[0]) < _key(self.below)


class Manifest(_Table):
    """One runner.

    Attributes:
        program: what to look for on the login shell's `PATH`; empty = the configuration's argv.
        argv: arguments after the program; the prompt always goes to standard input.
        profiles: arguments by profile; a profile that is not named cannot run.
        session: None = each run is on its own, so there are no follow-up turns.
        versions: those that may run in a sandboxed profile; None = any for `command`, and else
            none but what has passed a self-test.
        reports_cost: it names the cost of a run, and keeps to a budget that it is given.
        reports: what it tells while it runs, so that the worker can hold it to a limit: `turns`,
            `tokens`.
        refuses: names that may stand neither in the task's directory nor above it in the same
            git repository: the program acts on them whatever it is told.
        env: variables set for the agent, on top of `PATH`, `LANG`, `HOME` and `TMPDIR`.
        idle_s: seconds that it may print nothing on standard output before its task is ended, for
            some ask a model that does not answer again and again without a word; None = it may
            be silent as long as it runs.
        cwd: folder in its home, empty, that it starts in; None = the task's directory. For a
            program that obeys what lies where it starts, and takes the directory otherwise.
        files: what it finds in its home, by path: texts as they are, without placeholders.
        env_json: more of them, by name, whose text is JSON. A text in it that names what has no
            value, such as the model when none is set, is left out, with its key.
        preface_in_prompt: it takes no system text, so that what cmesh tells an agent stands in
            front of the prompt. Without this and `system` of its options it is told nothing.
    """

    schema_version: Literal[1]
    name: Annotated[str, TextForm(RUNNER_NAME_PATTERN, RUNNER_NAME_WORDS)]
    program: str = ""
    parser: Literal[
        "claude-stream-json", "codex-json", "gemini-stream-json", "opencode-json", "output"
    ]
    argv: tuple[Template, ...]
    version_argv: tuple[str, ...] = ()
    versions: Versions | None = None
    reports_cost: bool
    reports: tuple[Literal["turns", "tokens"], ...] = ()
    install_hint: str = ""
    idle_s: Annotated[int, Field(ge=1, le=14_400)] | None = None
    profiles: dict[Profile, tuple[Template, ...]]
    options: Options = Options()
    credential: Credential | None = None
    network: Network = Network()
    session: Session | None = None
    refuses: tuple[Annotated[str, TextForm(r"[^/{}]+", "a name, no path")], ...] = ()
    env: dict[Variable, Template] = {}
    env_json: dict[Variable, JsonTemplate] = {}
    cwd: InHome | None = None
    files: dict[InHome, str] = {}
    preface_in_prompt: bool = False

    @model_validator(mode="after")
    def _holds_its_cost(self) -> Self:
        # INVARIANT: a rule with a limit of cost allows what says this, so it must be so.
        if self.reports_cost and (self.parser in _TELLS_NO_COST or not self.options.cost_usd):
            raise wanted(
                "false: it takes a parser that reads a cost and `cost_usd` of [options]",
                "reports_cost",
            )
        return self

    @model_validator(mode="after")
    def _can_read_its_id(self) -> Self:
        if self.session and self.session.id == "read" and self.parser == "output":
            raise wanted('"forced": plain output names no id', "session", "id")
        return self

    @model_validator(mode="after")
    def _tells_what_it_reports(self) -> Self:
        # INVARIANT: as for the cost. Claude's tokens are whole only where it is told to show them.
        known = set(_TELLS[self.parser])
        if self.parser == "claude-stream-json" and not self.options.tokens:
            known.discard("tokens")
        if too_much := set(self.reports) - known:
            raise wanted(
                f"no `{min(too_much)}`: its parser does not read that before the end, or not"
                " without `tokens` of [options]",
                "reports",
            )
        return self

    @model_validator(mode="after")
    def _keeps_out_of_conversations(self) -> Self:
        # INVARIANT: the daemon fills a home outside of every sandbox, and an earlier turn may have
        # put links into its conversation.
        kept = f"{self.session.home}/" if self.session else ""
        inside = [one for one in (*self.files, self.cwd) if one and f"{one}/".startswith(kept)]
        if kept and inside:
            raise wanted("a folder with no path of `files` in it, nor `cwd`", "session", "home")
        return self

    @model_validator(mode="after")
    def _is_told_once(self) -> Self:
        if self.preface_in_prompt and self.options.system:
            raise wanted("false: `system` of [options] says the same", "preface_in_prompt")
        return self

    @property
    def takes_preface(self) -> bool:
        """Whether it is an agent that is told by cmesh what it works on."""
        return self.preface_in_prompt or bool(self.options.system)

    def by_account(self) -> Self:
        """Return it as it is where its owner has logged in with an account: without `full`.

        INVARIANT: a task of `full` has no gateway, so it would have to hold the login.
        """
        if self.credential is None:
            return self
        profiles = {name: argv for name, argv in self.profiles.items() if name is not Profile.FULL}
        changed = {"credential": self.credential.by_account(), "profiles": profiles}
        return self.model_copy(update=changed)

    def fixed_env(self) -> dict[str, str]:
        """Return the variables that are the same for every task, and for none."""
        return {name: text for name, text in self.env.items() if not _PLACEHOLDER.search(text)}


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def parse_manifest(text: str, *, source: str) -> Manifest:
    """Read one manifest; `source` names it in errors.

    Raises:
        ConfigError: it is not TOML, or a key is missing, unknown or of the wrong form.
    """
    return parse_table(Manifest, text, what=f"runner manifest `{source}`")


def parse_table(form: type[TableT], text: str, *, what: str) -> TableT:
    """Read a TOML file that a runner brings; `what` it is begins each error, then line and key.

    Raises:
        ConfigError: as `parse_manifest`.
    """
    try:
        return form.model_validate(read_table(text))
    except TomlMistake as mistake:
        line = f" line {mistake.line}" if mistake.line else ""
        raise ConfigError(f"{what}{line}: {mistake.expected}") from mistake
    except ValidationError as error:
        first = problems(error)[0]
        found = line_of(text, first.where)
        line = f" line {found}" if found else ""
        said = f"{describe(first, form)}{_misplaced(first, form)}"
        raise ConfigError(f"{what}{line}: `{key_of(first.where)}`: {said}") from error


def _misplaced(problem: Problem, form: type[BaseModel]) -> str:
    """Return what helps where a key of the whole file stands below a table's header."""
    *tables, key = problem.where
    if not tables or key not in form.model_fields or key_of(problem.where).endswith("]"):
        return ""
    return f"; `{key}` of the whole file stands above the first [table]"


@cache
def load_manifests() -> dict[str, Manifest]:
    """Return the built-in manifests by name; reads the package's files once.

    Raises:
        ConfigError: one of them is broken.
    """
    manifests = [
        parse_manifest(entry.read_text(encoding="utf-8"), source=entry.name)
        for entry in _folder().iterdir()
        if entry.name.endswith(".toml")
    ]
    return {manifest.name: manifest for manifest in manifests}


def built_in_text(name: str) -> str:
    """Return the file of a built-in manifest as it stands; `name` must be one's."""
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def manifest_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of a manifest's content."""
    schema: dict[str, object] = Manifest.model_json_schema(mode="validation")
    return schema | {"title": "cmesh runner manifest"}


def _folder() -> Traversable:
    return resources.files("cmesh.runner") / "manifests"
