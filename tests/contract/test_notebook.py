"""The example notebook runs, on a store in which everything has happened, and draws its plots."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from cmesh.store.store import Store
from tests.contract.audit_month import MonthClock, live_a_month

NOTEBOOK = Path(__file__).parents[2] / "examples" / "audit.ipynb"
CELL_LIMIT_S = 120
PLOTS = 3

pytestmark = pytest.mark.anyio


async def test_the_notebook_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MonthClock()
    store = await Store.open(tmp_path / "state" / "store", clock=clock, node="nSELF")
    await live_a_month(store, clock)
    await store.close()
    for name, value in {
        "CMESH_STATE_DIR": str(tmp_path / "state"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "PYTHONPATH": str(NOTEBOOK.parents[1]),
    }.items():
        monkeypatch.setenv(name, value)
    # Neither has types.
    nbformat, nbclient = (importlib.import_module(name) for name in ("nbformat", "nbclient"))
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_LIMIT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    await client.async_execute()
    outputs: list[dict[str, Any]] = [
        one for cell in notebook.cells for one in cell.get("outputs", ())
    ]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == PLOTS
    printed = "".join(one.get("text", "") for one in outputs if one["output_type"] == "stream")
    assert " rows from " in printed
    assert "operation" in printed
    assert [one for one in outputs if one.get("name") == "stderr"] == []
