"""What a person's tree held when its changes were sent with a task: the patch is made on that."""

from collections.abc import Mapping
from pathlib import Path

from cmesh.patch.judge import Entry
from cmesh.patch.repository import Repository
from cmesh.patch.trial import Trial

__all__ = ["sent_entries"]


def sent_entries(
    place: Path, sent: bytes, commit: str, repository: Repository
) -> Mapping[str, Entry | None]:
    """Return what each path that was sent held; None = it was not there. Blocks.

    Args:
        place: is made, for the trial; the caller's to remove.
        sent: as it is stored; empty = nothing had changed.
        commit: what it is made on, which is here.
        repository: that of the tree.

    Raises:
        PatchRefused: git cannot read it.
    """
    if not sent:
        return {}
    place.mkdir()
    trial = Trial(place, sent, kind=repository.kind, below="", objects=repository.objects)
    names = [one.name for one in trial.numbers()]
    base = repository.tree(commit)
    trial.seed_entries({name: base.get(name) for name in names})
    entries = trial.apply().entries
    return {} if entries is None else {name: entries.get(name) for name in names}
