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
import time
from pathlib import Path

import httpx

PORT = 8199
URL = f"http://127.0.0.1:{PORT}"
OPERATIONS = 2  # with a body: generate and edit; the others have only a few cases
HOOKS = "benchmarks.fuzz_hooks"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
    # Small limits: this tests the handling of requests, not the model.
    service_options = ("--port", str(PORT), "--device", "cpu", "--max-images", "2", "--max-steps", "18")
    service = subprocess.Popen([sys.executable, "-m", "strait.cli", "serve", *service_options])
    try:
        _wait(service)
        start = time.monotonic()
        each = str(-(-args.cases // OPERATIONS))
        checks = "not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance"
        options = (
            "--max-examples",
            each,
            "--seed",
            str(args.seed),
            "--checks",
            checks,
            "--phases",
            "examples,coverage,fuzzing",
        )
        root = Path(__file__).parent.parent
        paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(
            [tool, "run", f"{URL}/openapi.json", *options, "--no-color"],
            check=False,
            env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": paths},
        )
        replies = [
            line for line in httpx.get(f"{URL}/metrics").text.splitlines() if line.startswith("strait_replies_t")
        ]
        final = httpx.post(f"{URL}/v1/images/generate", json={}, timeout=60)
        print("\n".join(replies))
        print(f"{time.monotonic() - start:.0f} s; afterwards, a request: {final.status_code}")
        failed = [line for line in replies if 'status="5' in line]
        edited = any("images/edit" in line and 'status="200"' in line for line in replies)
        if not edited:
            print("no picture was edited: the cases did not reach the editing")
        return int(done.returncode != 0 or bool(failed) or not edited or final.status_code != 200)
    finally:
        service.terminate()
        service.wait(60)


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
