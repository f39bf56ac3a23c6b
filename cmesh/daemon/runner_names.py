"""The names that a runner's manifest can have here, told without a daemon.

Apart from the daemon's own view of its runners, so that a command that only checks a name loads
none of it.
"""

from pathlib import Path

from cmesh.runner.manifest import load_manifests

__all__ = ["names_of_manifests"]


def names_of_manifests(config: Path) -> list[str]:
    """Return the built-in names, then those of files in the configuration's `runners`. Blocks.

    A file that is no manifest counts as well: what is wrong with it is the daemon's to say.
    """
    own = sorted((config / "runners").glob("*.toml"))
    return list(dict.fromkeys([*load_manifests(), *(path.stem for path in own)]))
