"""A repository for each test."""

import os
from pathlib import Path

import pytest

from tests.system.patch.trees import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(Path(os.path.realpath(tmp_path)) / "app")
