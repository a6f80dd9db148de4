"""How threads wait: bounded by the program, unless the user's environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# What the process's own environment holds when torch is loaded: libraries read it once, then.
_AS_A_PROGRAM = """
import builtins, os, sys
real = builtins.__import__
def noticed(name, *rest, **more):
    if name == "torch" and "torch" not in sys.modules and not hasattr(builtins, "told"):
        builtins.told = True
        print(*(f"{name}={os.environ.get(name)}" for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")))
        sys.stdout.flush()
    return real(name, *rest, **more)
builtins.__import__ = noticed
sys.argv = ["strait", *sys.argv[1:]]
from strait.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "GOMP_SPINCOUNT=10000 KMP_BLOCKTIME=1 OMP_WAIT_POLICY=None"),
        ({"OMP_WAIT_POLICY": "active"}, "GOMP_SPINCOUNT=None KMP_BLOCKTIME=None OMP_WAIT_POLICY=active"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT=7 KMP_BLOCKTIME=None OMP_WAIT_POLICY=None"),
        ({"KMP_BLOCKTIME": "0"}, "GOMP_SPINCOUNT=None KMP_BLOCKTIME=0 OMP_WAIT_POLICY=None"),
    ],
)
@pytest.mark.parametrize("verb", ["generate --grid g.png --model nowhere", "train --config smoke --data no --model m"])
def test_what_torch_is_loaded_with(verb: str, chosen: dict[str, str], expected: str) -> None:
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", _AS_A_PROGRAM, *verb.split()],
        env={**environment, **chosen},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[:1] == [expected], done.stderr
