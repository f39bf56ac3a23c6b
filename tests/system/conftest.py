"""What the system tests share."""

from collections.abc import Iterator

import pytest

from cmesh.sandbox.probe import find_enforcement
from cmesh.sandbox.tier import Enforcement
from tests.fakes.model_server import ModelServer


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Return a model on loopback that says what its scripts say."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def found() -> Enforcement:
    """Return the sandbox of this machine; skips where it is not a whole one."""
    found = find_enforcement()
    if found.tier != 3:
        pytest.skip(f"no sandbox of tier 3 here: {found.why}")
    return found
