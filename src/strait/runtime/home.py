"""A user of whom the system knows nothing, as in a container: libraries ask for a home folder and a name."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import tempfile
from pathlib import Path


def lend_home() -> None:
    """Where there is no home folder, one that lasts as long as this process; where there is no name, a number.

    torch, datasets and the hub's library keep files in the one, and torch's compiler names a folder after the other.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="strait-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
