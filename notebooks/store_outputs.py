"""Run both notebooks and store what they show: run it after they, or the model that ships, have changed.

python notebooks/store_outputs.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        metadata = dict(notebook.metadata)
        with tempfile.TemporaryDirectory() as folder:
            options = {"metadata": {"path": folder}}
            client = NotebookClient(notebook, timeout=1200, resources=options)
            client.record_timing, client.coalesce_streams = False, True
            client.execute()
        notebook.metadata.clear()
        notebook.metadata.update(metadata)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                # Progress and warnings tell of one run on one machine.
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
                for output in cell.outputs:
                    output.get("data", {}).pop("image/jpeg", None)  # the same picture as the PNG
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
