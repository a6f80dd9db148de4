"""The notebooks run from top to bottom in a kernel of their own, and are stored with what such a run shows."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]


def test_both_are_there() -> None:
    assert IDS == ["train-on-your-own-photographs", "your-first-images"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebooks_are_stored_with_the_outputs_of_one_run(path: Path) -> None:
    content = json.loads(path.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        compile("".join(cell["source"]), path.name, "exec")
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    # Progress, warnings and errors tell of one run on one machine, and so do its folders.
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert "error" not in {output["output_type"] for output in outputs}
    assert not re.search(r"/(?:tmp|home|root|usr|work)/", json.dumps([output.get("text", "") for output in outputs]))
    # What an editor notes about the machine it ran on would change with each of them.
    assert content["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_the_stored_outputs_are_of_the_model_that_ships() -> None:
    cells = json.loads((ROOT / "notebooks" / "your-first-images.ipynb").read_text())["cells"]
    texts = [line for cell in cells for output in cell.get("outputs", ()) for line in output.get("text", ())]
    shipped = ROOT / "src" / "strait" / "shipped"
    size = json.loads((shipped / "config.json").read_text())["model"]["image_size"]
    classes = len((shipped / "classes.txt").read_text().splitlines())
    assert any(line.startswith(f"{classes} classes, {size} pixels") for line in texts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_a_notebook_installs_the_package_where_it_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec("".join(first["source"]), {})
    assert commands == [], "it is here"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec("".join(first["source"]), {})
    assert [command[1:5] for command in commands] == [["-m", "pip", "install", "-q"]]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it is in the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it is in the extra dev")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: it is in the extra dev")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert [output for output in shown if output.output_type == "error"] == []
