"""The wheel and the source distribution: what is in them, and that they work where the checkout is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from strait import __version__

ROOT = Path(__file__).parent.parent
LARGEST = 40e6
MODEL = ("config.json", "classes.txt", "README.md", "tokenizer.safetensors", "top.safetensors", "bottom.safetensors")
PYTHONS = ("3.11", "3.12", "3.13")


def run(*words: object, folder: Path, **environment: str) -> str:
    """What a process prints; it sees neither this checkout nor the network."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, capture_output=True, text=True, env={**clean, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that is built from it alone."""
    pytest.importorskip("build", reason="build is not installed: it is in the extra dev")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_all_that_is_needed_and_no_more(wheel: Path) -> None:
    assert wheel.name == f"strait-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "strait").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == sources
    assert "strait/py.typed" in inside
    assert {f"strait/shipped/{name}" for name in MODEL} <= inside
    assert {name for name in inside if name.startswith("strait/configs/")} >= {"strait/configs/smoke.yaml"}
    assert [name for name in names if re.search(r"(^|/)tests?/|\.ipynb$", name)] == []


def test_the_source_distribution_holds_what_its_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    assert path.stat().st_size < LARGEST
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("Makefile", "mkdocs.yml", "docs/index.md", "tests/conftest.py", "notebooks", "benchmarks"):
        assert any(name == needed or name.startswith(f"{needed}/") for name in names), needed


def test_the_metadata_says_what_an_installer_must_know(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"strait-{__version__}.dist-info/METADATA").decode()
        points = archive.read(f"strait-{__version__}.dist-info/entry_points.txt").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: torch" in metadata
    assert "torchvision" not in metadata
    assert "strait = strait.cli:main" in points


def new_environment(python: str, folder: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel alone in it."""
    run(python, "-m", "venv", folder / "environment", folder=folder)
    bin = folder / "environment" / "bin"
    run(bin / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    return bin


@pytest.mark.slow
def test_an_installed_wheel_generates_images_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    bin = new_environment(sys.executable, tmp_path, wheel)
    # The libraries that it needs, from where they lie; the package itself is the new environment's own.
    (site,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    libraries = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
    (site / "libraries.pth").write_text("\n".join(dict.fromkeys(libraries)))
    where = run(bin / "python", "-c", "import strait; print(strait.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    assert run(bin / "strait", "--version", folder=tmp_path) == f"strait {__version__}\n"
    output = run(bin / "strait", "generate", "--labels", "lemon", "--output", "out", folder=tmp_path)
    assert (tmp_path / output.strip()).stat().st_size > 0
    assert "weights" in run(bin / "strait", "describe", folder=tmp_path)


def python_of(version: str) -> str | None:
    """An interpreter of that version, if one is here and starts."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    for candidate in [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]:
        if candidate is not None:
            done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
            if done.returncode == 0 and f" {version}." in done.stdout:
                return str(candidate)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_installs_and_compiles_on_each_python(version: str, wheel: Path, tmp_path: Path) -> None:
    """Without torch, whose builds for other versions of Python need not be here: all that comes before it."""
    python = python_of(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    bin = new_environment(python, tmp_path, wheel)
    (site,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    run(bin / "python", "-W", "error", "-m", "compileall", "-q", "-f", site / "strait", folder=tmp_path)
    run(bin / "python", "-c", "import strait; assert strait.__version__", folder=tmp_path)
