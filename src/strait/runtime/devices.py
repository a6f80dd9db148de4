"""What a device can do and hold: the dtypes it computes in, whether code can be compiled for it, and the memory that
is free on it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from strait.runtime.messages import say_once

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Those a transformer can run in, by their names in settings."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def usable_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """A dtype as the device can compute in it: bfloat16 becomes float32, with one warning, where it would only be
    imitated, many times slower."""
    if dtype != torch.bfloat16 or _has_bfloat16(device.type):
        return dtype
    say_once(f"this {device.type} cannot compute in bfloat16; float32 is used instead")
    return torch.float32


def _has_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return True
    # A build without oneDNN does not even have the question.
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` finds here what it needs for a device: triton for a GPU, a C++ compiler for a CPU."""
    try:
        if device.type == "cuda":
            import triton  # noqa: F401
        else:
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except Exception:
        return False
    return True


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device; None where nothing tells."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    found = [value for value in (_machine_free(), _group_free()) if value is not None]
    return min(found, default=None)


def _machine_free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:  # not Linux: half of what is built in
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _group_free() -> int | None:
    """What the container's limit leaves (cgroup 2); files kept in memory count as free."""
    try:
        folder = Path("/sys/fs/cgroup")
        limit, used = (folder / "memory.max").read_text(), int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        return max(0, int(limit) - used + cached)
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def give_back_memory() -> None:
    """Return to the system what the allocator keeps of memory that was freed in pieces, where it can be told to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # glibc's
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Tell the allocator to keep what is freed, for a process that asks for the same sizes again at every step.

    Otherwise glibc gives every large tensor back to the system at once and gets it anew, page by page, the next time:
    a sixth of a training step on a CPU (docs/performance.md). Other allocators are left as they are.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option is not None:
        never, all_of_it = 0, 2**31 - 1
        option(_M_MMAP_MAX, never)
        option(_M_TRIM_THRESHOLD, all_of_it)
