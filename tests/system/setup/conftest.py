"""What tests of the installer share: wheels, made once, and a home for each test."""

from pathlib import Path

import pytest

from tests.system.setup.home import Home, release
from tests.system.setup.wheels import dependencies, own_wheel


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheels of everything that cmesh needs."""
    folder = tmp_path_factory.mktemp("wheels")
    dependencies(folder)
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return cmesh's own wheel."""
    return own_wheel(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def present(wheels: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release of this version, with a lock of its dependencies."""
    return release(wheels, tmp_path_factory.mktemp("releases") / "present", wheel, lock=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)
