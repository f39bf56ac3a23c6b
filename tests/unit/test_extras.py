"""The command that adds an extra: to this environment, whoever made it."""

import sys

import pytest

from cmesh import extras


def test_an_extra_goes_where_cmesh_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/my tools/bin/python")
    assert extras.how_to_add("s3") == "'/opt/my tools/bin/python' -m pip install 'cmesh[s3]'"

    def none(_name: str) -> None:
        return None

    monkeypatch.setattr(extras, "find_spec", none)  # as uv makes an environment
    wanted = "uv pip install --python '/opt/my tools/bin/python' 'cmesh[s3]'"
    assert extras.how_to_add("s3") == wanted
