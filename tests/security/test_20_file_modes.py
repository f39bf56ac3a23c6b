"""Abuse 20: what others could have written, or put in our place, is refused by its path."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cmesh.config import load_config
from cmesh.errors import ConfigError, UnsafePermissions
from cmesh.keys import SigningKey
from cmesh.store.opening import Claim

Use = Callable[[Path], object]


def config(path: Path) -> object:
    return load_config(path)


def key(path: Path) -> object:
    return SigningKey.load_or_make(path)


def state(path: Path) -> object:
    claim = Claim(path)
    claim.take()
    claim.release(drop_journal=False)
    return claim


def make(path: Path, mode: int, *, directory: bool) -> Path:
    if directory:
        path.mkdir()
    else:
        path.write_bytes(b"" if path.suffix == ".toml" else bytes(32))
    path.chmod(mode)
    return path


# What is used, whether it is a directory, and which bits nobody else may have.
USES: dict[str, tuple[Use, bool, int]] = {
    "config.toml": (config, False, 0o022),
    "key": (key, False, 0o077),
    "store": (state, True, 0o077),
}
BITS = [1 << bit for bit in range(6)]


@pytest.mark.parametrize("bit", BITS, ids=[f"{bit:03o}" for bit in BITS])
@pytest.mark.parametrize("name", USES)
def test_20_every_bit_for_others_is_allowed_or_refused_as_written(
    tmp_path: Path, name: str, bit: int
) -> None:
    use, directory, forbidden = USES[name]
    own = 0o700 if directory else 0o600
    path = make(tmp_path / name, own | bit, directory=directory)
    if bit & forbidden:
        with pytest.raises(UnsafePermissions, match=name) as caught:
            use(path)
        assert f"chmod {own:04o}" in caught.value.hint
        path.chmod(own)
    use(path)
    assert stat.S_IMODE(path.stat().st_mode) & forbidden == 0


@pytest.mark.parametrize("name", USES)
def test_20_a_link_in_its_place_is_refused(tmp_path: Path, name: str) -> None:
    use, directory, _ = USES[name]
    real = make(tmp_path / f"real-{name}", 0o700 if directory else 0o600, directory=directory)
    link = tmp_path / name
    link.symlink_to(real)
    with pytest.raises(UnsafePermissions, match="not a plain"):
        use(link)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to somebody else")
@pytest.mark.parametrize("name", USES)
def test_20_what_belongs_to_another_user_is_refused(tmp_path: Path, name: str) -> None:
    use, directory, _ = USES[name]
    path = make(tmp_path / name, 0o700 if directory else 0o600, directory=directory)
    os.chown(path, 12345, 12345)
    with pytest.raises(UnsafePermissions, match="belongs to uid 12345"):
        use(path)


@pytest.mark.parametrize("name", USES)
def test_20_another_kind_of_file_in_its_place_is_refused(tmp_path: Path, name: str) -> None:
    use, _, _ = USES[name]
    os.mkfifo(tmp_path / name, 0o600)
    with pytest.raises((UnsafePermissions, ConfigError, OSError)):
        use(tmp_path / name)
