"""Writes the parts list of a release as CycloneDX JSON: what is linked in, what is installed.

    python scripts/sbom.py LOCK TARGET

The Go modules are those that Go says it links; the Python packages are those of the lock. It is
checked against the schema of CycloneDX before it is written.
"""

# pyright: basic, reportMissingImports=false
# CycloneDX is among the tools of a release only.
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import licences
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

FORM = "1.6"


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    lock, target = map(Path, arguments)
    project = tomllib.loads((licences.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = document(project["version"], lock.read_text("utf-8"))
    target.write_text(text, "utf-8")
    return 0


def document(version: str, lock: str) -> str:
    """Return the parts list; stops when it does not follow CycloneDX's schema."""
    whole = Component(
        name="cmesh",
        version=version,
        type=ComponentType.APPLICATION,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", None, "cmesh", version),
        bom_ref="cmesh",
    )
    bom = Bom(components=[*linked(), *installed(lock)])
    bom.metadata.component = whole
    bom.register_dependency(whole, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    problem = JsonStrictValidator(JsonV1Dot6(bom).schema_version).validate_str(text)
    if problem is not None:
        sys.exit(f"sbom: the list does not follow CycloneDX {FORM}: {problem}")
    return text + "\n"


def linked() -> Iterator[Component]:
    """Yield what the native parts link, with licences."""
    for part in licences.parts():
        module = "/" in part.name or "." in part.name
        namespace, _, name = part.name.rpartition("/")
        yield Component(
            name=part.name,
            version=part.version,
            type=ComponentType.LIBRARY,
            licenses=[
                LicenseFactory().make_from_string(
                    part.licence.replace("patent grant", "LicenseRef-patent-grant")
                )
            ],
            purl=PackageURL("golang", namespace or None, name, part.version) if module else None,
            bom_ref=f"linked:{part.name}",
        )


def installed(lock: str) -> Iterator[Component]:
    """Yield each package that a lock pins, with the hashes of its files."""
    joined = lock.replace("\\\n", " ")
    for name, version, rest in re.findall(r"(?m)^([\w.-]+)==([\w.!+-]+)(.*)$", joined):
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=PackageURL("pypi", None, name.lower().replace("_", "-"), version),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in hashes],
            bom_ref=f"installed:{name}=={version}",
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
