"""TensorBoard event files, written synchronously: the writer of TensorBoard uses a thread, whose errors (a full disk)
are tracebacks that name no file."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from strait.runtime.files import naming


class EventFile:
    """The events of one run. Events of earlier runs after ``step`` are no longer shown.

    Args:
        folder: ``runs/PART/tensorboard``.
        step: number of steps taken before.

    Raises:
        OSError: naming the file, if it cannot be written (also when adding events).
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore  (generated at run time)

        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._path = folder / name
        with naming(self._path):
            folder.mkdir(parents=True, exist_ok=True)
        self._write(file_version="brain.Event:2", step=step + 1)
        self._write(session_log=SessionLog(status=SessionLog.START), step=step + 1)

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the metrics of a line of the log."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._write(summary=summary, step=step)

    def add_picture(self, step: int, picture: Image.Image) -> None:
        """Add a sample grid."""
        from torch.utils.tensorboard.summary import image

        self._write(summary=image("samples", np.asarray(picture), dataformats="HWC"), step=step)

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), **content)
        with naming(self._path), self._path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())


def open_events(folder: Path, step: int) -> EventFile | None:
    """An event file for the steps after ``step``; None if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return None
    return EventFile(folder, step)
