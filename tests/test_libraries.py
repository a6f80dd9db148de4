"""A library that is missing, and one that is there and broken: each says which, why, and what brings it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from strait.runtime.messages import library_needed


def failure(name: str) -> Exception:
    try:
        importlib.import_module(name)
    except Exception as error:
        return error
    raise AssertionError(f"{name} can be imported")


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for libraries of which nobody has heard."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_is_missing_is_named_whoever_asks_for_it(libraries: Path) -> None:
    (libraries / "lib_that_asks.py").write_text("import lib_not_there.inner\n")
    expected = "the library lib_not_there: pip install 'strait[eval]'"
    assert library_needed(failure("lib_not_there"), "eval") == expected
    assert library_needed(failure("lib_that_asks"), "eval") == expected


def test_what_is_there_and_broken_shows_its_own_error(libraries: Path) -> None:
    (libraries / "lib_broken.py").write_text("raise RuntimeError('operator does not exist\\nand more')\n")
    assert library_needed(failure("lib_broken"), "eval") == (
        "the library lib_broken, which is installed but cannot be imported (RuntimeError: operator does not exist); "
        "reinstall it: pip install --force-reinstall 'strait[eval]' lib_broken"
    )


def test_a_torchvision_of_another_build_is_to_blame_for_what_needs_it(libraries: Path) -> None:
    """The real command, beside stand-ins that fail as the real ones do."""
    for name, text in (
        ("torchvision", "import torch\ntorch.library.register_fake('torchvision::nms')(lambda: None)\n"),
        ("torch_fidelity", "import torchvision\n"),
        ("torchmetrics", "import torchvision\n"),
    ):
        (libraries / name).mkdir()
        (libraries / name / "__init__.py").write_text(text)
    code = (
        "import torch\n"
        "from strait.evaluation.features import InceptionFeatures\n"
        "from strait.evaluation.reconstruction import _distances\n"
        "_distances(torch.device('cpu'))\n"
        "try: InceptionFeatures(torch.device('cpu'))\n"
        "except ValueError as error: print(error)\n"
    )
    path = os.pathsep.join([str(libraries), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    why = "the library torchvision, which is installed but cannot be imported (RuntimeError: operator torchvision::nms"
    ssim = next(line for line in done.stderr.splitlines() if line.startswith("no SSIM"))
    assert ssim.startswith(f"no SSIM: it needs {why}")
    assert ssim.endswith("pip install --force-reinstall 'strait[eval]' torch torchvision")
    assert done.stdout.startswith(f"--features: inception needs {why}")
    assert "pip install --force-reinstall 'strait[inception]' torch torchvision; or pass a" in done.stdout
