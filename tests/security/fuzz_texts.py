"""Damaged configurations and runner manifests: each is read, or refused by an error of ours."""

import random
import re
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

from cmesh.config import load_config
from cmesh.errors import CmeshError
from cmesh.runner.manifest import parse_manifest
from tests.security.fuzz_frames import Found
from tests.security.mutate import HOSTILE_TEXTS, damaged_text

__all__ = ["fuzz_config", "fuzz_manifests"]

ROOT = Path(__file__).parents[2]
WARM_UP = 200
VALUES = (
    *("''", '""', "0", "-1", "1e999", "nan", "inf", "true", "[]", "{}", "[[]]", "9" * 60),
    *('"\\u0000"', '"\\u202e"', '"~"', '"/"', '".."', '"*"', '"node:"', '"grant:x"', "1979-05-27"),
    *('"' + "a" * 3_000 + '"', "[" * 300, "[" + '"x",' * 500 + "]", '"15m"', '"-1s"', "07:32:00"),
)


def fuzz_config(count: int, seed: int) -> Found:
    """Load `count` damaged configurations; blocks. They are written to a file as people do."""
    texts = [*_examples("docs/quickstart.md"), *_examples("README.md")]
    texts.append("".join(_examples("docs/configuration.md")))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "config.toml"

        def load(text: str) -> None:
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            path.chmod(0o600)
            load_config(path)

        return _fuzz(count, seed, texts, load)


def fuzz_manifests(count: int, seed: int) -> Found:
    """Read `count` damaged runner manifests; blocks."""
    texts = [path.read_text("utf-8") for path in (ROOT / "cmesh/runner/manifests").glob("*.toml")]

    def load(text: str) -> None:
        parse_manifest(text.encode("utf-8", "replace").decode("utf-8"), source="fuzzed")

    return _fuzz(count, seed, texts, load)


def _fuzz(count: int, seed: int, texts: list[str], load: Callable[[str], None]) -> Found:
    chance, found, before = random.Random(seed), Found(), 0
    for number in range(count):
        text = _damaged(chance, chance.choice(texts), texts)
        found.inputs += 1
        try:
            load(text)
            found.taken += 1
        except CmeshError as error:
            found.malformed += 1
            if not error.message or "\n" in error.message:
                found.crashes.append(f"an error without a plain message: {error.message!r}")
        except Exception as error:  # noqa: BLE001 - what a fuzzer is for
            found.crashes.append(f"{type(error).__name__}: {error}: {text[:300]!r}")
        if number == min(WARM_UP, count // 2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return found


def _damaged(chance: random.Random, text: str, others: list[str]) -> str:
    """Change values, drop, double or move lines; one in three is damaged without regard to form."""
    if chance.randrange(3) == 0:
        return damaged_text(chance, text, others)
    lines = text.splitlines()
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(lines))
        match chance.randrange(6):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 2:
                lines.insert(at, chance.choice(chance.choice(others).splitlines()))
            case 3:
                lines[at] = lines[at].replace('"', chance.choice(('"', "'", "", '"""')))
            case 4:
                lines[at] = re.sub(
                    r'"[^"]*"', lambda _: repr(chance.choice(HOSTILE_TEXTS)), lines[at]
                )
            case _:
                key, equals, _value = lines[at].partition(" = ")
                lines[at] = f"{key} = {chance.choice(VALUES)}" if equals else lines[at]
    return "\n".join(lines)


def _examples(page: str) -> list[str]:
    found = re.findall(r"(?ms)^```toml\n(.*?)^```", (ROOT / page).read_text("utf-8"))
    return [text for text in found if "schema_version" not in text]
