"""What the system tests of agents share."""

from collections.abc import Iterator

import pytest

from tests.fakes.model_server import ModelServer


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Return a model on loopback that says what its scripts say."""
    with ModelServer() as server:
        yield server
