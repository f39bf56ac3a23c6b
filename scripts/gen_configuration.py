"""Write `docs/configuration-keys.md`: every key of `config.toml`, from the models that read it.

`python scripts/gen_configuration.py` writes; with `--check` it only says whether the page is
current, with exit status 1 when it is not. Examples are those of `docs/every-key.toml`, which a
test reads as a daemon does. A key without words, or without an example there, is refused.
"""

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic_core import PydanticUndefined

from cmesh.configfile import FileTable, config_schema
from cmesh.policy.tables import DURATION_PATTERN, Table

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "configuration-keys.md"
WHOLE = DOCS / "every-key.toml"

Schema = Mapping[str, Any]

_DAYS_END = "d)$"
_HEAD = """\
# All keys of the configuration

<!-- made by scripts/gen_configuration.py; do not edit -->

What may stand in `~/.config/cmesh/config.toml`, from the models that read it. What the keys mean
together, and what a change does while the daemon runs: [configuration.md](configuration.md). For
editors: [`schemas/config.json`](../schemas/config.json). Examples are those of the file at the end.

*Duration* is a whole number and `s`, `m`, `h` or `d`; *days* is a whole number and `d`.
"""
_FOOT = """\
## A file with every key

No machine needs all of them; most files have ten lines.

```toml
{}```
"""


class Refused(Exception):
    """Raised when a key has no words or no example."""


def main(arguments: list[str]) -> int:
    """Write or check the page; return the exit status."""
    try:
        text = page(WHOLE.read_text(encoding="utf-8"))
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in arguments:
        print(
            f"not current: {PAGE.name}; run `python scripts/{Path(__file__).name}`", file=sys.stderr
        )
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def page(whole: str) -> str:
    """Return the page, with the examples of a whole file."""
    schema = config_schema()
    parts = _sections(FileTable, schema, schema, "", [tomllib.loads(whole)])
    return "\n".join([_HEAD, *parts, _FOOT.format(whole)])


def _sections(
    model: type[Table], schema: Schema, root: Schema, name: str, examples: list[Any]
) -> Iterator[str]:
    """Yield the section of a table and then those of the tables in it."""
    rows: list[str] = []
    inner: list[tuple[str, type[Table], Schema, list[Any]]] = []
    for key, field in model.model_fields.items():
        form = _resolved(schema["properties"][key], root)
        given = [example[key] for example in examples if key in example]
        if not field.description or not given:
            lacks = "an example in docs/every-key.toml" if field.description else "a docstring"
            raise Refused(f"key `{key}` of {name or 'the file'} has not {lacks}")
        found = _tables(key, form, root, given)
        if found is None:
            default = field.get_default(call_default_factory=True)
            cells = (f"`{key}`", _kind(form, root), _default(default), f"`{_toml(given[0])}`")
            rows.append(f"| {' | '.join(map(_cell, cells))} | {_cell(field.description)} |")
        else:
            place, below, tables = found
            inner.append((f"{name}.{place}" if name else place, _model(below), below, tables))
    if rows:
        many = name.split(".")[-1] in ("allow", "deny")
        title = f"[[{name}]]" if many else f"[{name}]"
        head = "| key | type | default | example | meaning |\n|---|---|---|---|---|"
        about = (schema["description"]).strip()
        yield "\n".join([f"## `{title}`\n", f"{about}\n", head, *rows, ""])
    for place, below, form, tables in inner:
        yield from _sections(below, form, root, place, tables)


def _tables(
    key: str, form: Schema, root: Schema, given: list[Any]
) -> tuple[str, Schema, list[Any]] | None:
    """Return where tables of a key stand, their form and examples; None for a plain value."""
    if "properties" in form:
        return key, form, given
    named: list[Schema] = list(form.get("patternProperties", {}).values())
    if named and "properties" in (each := _resolved(named[0], root)):
        return f"{key}.NAME", each, [one for tables in given for one in tables.values()]
    if "properties" in (each := _resolved(form.get("items", {}), root)):
        return key, each, [one for tables in given for one in tables]
    return None


def _resolved(form: Schema, root: Schema) -> Schema:
    """Return a form without references and without the null of one that may be left out."""
    if "$ref" in form:
        return root["$defs"][form["$ref"].rpartition("/")[2]]
    if "anyOf" in form:
        return _resolved(next(one for one in form["anyOf"] if one.get("type") != "null"), root)
    return form


def _model(form: Schema) -> type[Table]:
    """Return the model that a form was made of."""
    left = [Table]
    while left:
        model = left.pop()
        if model.__name__ == form["title"]:
            return model
        left += model.__subclasses__()
    raise Refused(f"no model `{form['title']}`")


def _kind(form: Schema, root: Schema) -> str:
    """Return the type of a plain value in words."""
    if "enum" in form:
        return "one of " + ", ".join(f"`{json.dumps(word)}`" for word in form["enum"])
    kind = form["type"]
    if kind == "array":
        return f"list: {_kind(_resolved(form['items'], root), root)}"
    if kind == "object":
        return "table of texts"
    if kind == "string":
        pattern = form.get("pattern", "")
        days = "days" if pattern.endswith(_DAYS_END) else "text"
        return "duration" if pattern == DURATION_PATTERN else days
    if kind == "boolean":
        return "true or false"
    least, most = form.get("minimum"), form.get("maximum")
    span = f", at least {least}" if least is not None else ""
    span = f", {least} to {most}" if least is not None and most is not None else span
    return {"integer": "whole number", "number": "number"}[kind] + span


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    return "none" if value is None else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """Return a value as TOML writes it on one line; JSON's form but for tables."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        words = ", ".join(f"{key} = {_toml(one)}" for key, one in pairs)
        return f"{{ {words} }}" if words else "{}"
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
