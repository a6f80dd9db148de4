"""schemathesis on the service's OpenAPI description: no reply may be a 5xx, and the service must survive.

pip install ".[serve]" schemathesis
python benchmarks/fuzz_service.py --cases 5000 [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from strait.config import config_path, read_config
from strait.model.strait import random_model

PORT = 8199
URL = f"http://127.0.0.1:{PORT}"
OPERATIONS = 2  # with a body: generate and edit; the others have only a few cases
HOOKS = "benchmarks.fuzz_hooks"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Small, with random weights: this tests the handling of requests, and a drawing takes milliseconds.
        config = read_config(config_path("smoke")).model
        random_model(config, ["lemon", "orange", "sea"]).save_pretrained(folder)
        limits = ("--max-images", "2", "--max-steps", "24")
        service = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "strait.cli",
                "serve",
                "--model",
                folder,
                "--port",
                str(PORT),
                "--device",
                "cpu",
                *limits,
            ]
        )
        try:
            _wait(service)
            return _fuzz(args.cases, args.seed)
        finally:
            service.terminate()
            service.wait(60)


def _fuzz(cases: int, seed: int) -> int:
    """1 if a check failed, a reply was a 5xx, or the service cannot answer afterwards; otherwise 0."""
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
    options = (
        "--max-examples",
        str(-(-cases // OPERATIONS)),
        "--seed",
        str(seed),
        "--checks",
        checks,
        "--phases",
        "examples,coverage,fuzzing",
    )
    root = Path(__file__).parent.parent
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    before = _replies()
    start = time.monotonic()
    done = subprocess.run(
        [tool, "run", f"{URL}/openapi.json", *options, "--no-color"],
        check=False,
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": paths},
    )
    # /health answers 503 while the model loads; that is before the fuzzing.
    replies = {name: number - before.get(name, 0) for name, number in _replies().items()}
    for name, number in replies.items():
        print(f"{name} {number:.0f}")
    final = httpx.post(f"{URL}/v1/images/generate", json={}, timeout=60)
    print(f"{time.monotonic() - start:.0f} s; afterwards, a request: {final.status_code}")
    failures = [name for name, number in replies.items() if 'status="5' in name and number]
    missing = [path for path in ("generate", "edit") if not replies.get(_drawn(path))]
    for path in missing:
        print(f"no request to {path} was answered with an image: the cases did not reach the model")
    return int(done.returncode != 0 or bool(failures) or bool(missing) or final.status_code != 200)


def _drawn(path: str) -> str:
    return f'strait_replies_total{{path="/v1/images/{path}",status="200"}}'


def _replies() -> dict[str, float]:
    """The number of replies for each path and status."""
    lines = httpx.get(f"{URL}/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("strait_replies_total"))
    return {name: float(number) for name, number in pairs}


def _wait(service: subprocess.Popen[bytes]) -> None:
    while service.poll() is None:
        try:
            if httpx.get(f"{URL}/health").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("the service did not start")


if __name__ == "__main__":
    sys.exit(main())
