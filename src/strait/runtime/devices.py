"""Properties of a device: supported dtypes, whether code can be compiled for it, and its free memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch
from torch import nn

from strait.runtime.messages import say_once

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes that a transformer can run in, by their names in settings."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def usable_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: bfloat16 becomes float32, with one warning, if the device can only emulate it, which
    is many times slower."""
    if dtype != torch.bfloat16 or _has_bfloat16(device.type):
        return dtype
    say_once(f"this {device.type} cannot compute in bfloat16; float32 is used instead")
    return torch.float32


def _has_bfloat16(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return True
    if not torch.backends.mkldnn.is_available():  # a build without oneDNN lacks the operator below
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN says yes to every processor with AVX-512, although it emulates bfloat16 on many of them.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def allocate(network: nn.Module, device: torch.device) -> None:
    """Give a network on the meta device uninitialised weights on another device.

    ``Module.to_empty`` does the same, but asks the meta device for strides, which loads sympy: 0.8 s.
    """
    network._apply(lambda value: torch.empty(value.shape, dtype=value.dtype, device=device))


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` can target a device: it needs triton for a GPU, a C++ compiler for a CPU."""
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
    """Free memory on a device, in bytes; None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [value for value in (_machine_free(), _group_free()) if value is not None]
    return min(limits, default=None)


def _machine_free() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:  # not Linux: assume half of the physical memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _group_free() -> int | None:
    """Free memory within the container's limit (cgroup 2); the file cache counts as free."""
    try:
        folder = Path("/sys/fs/cgroup")
        limit, used = (folder / "memory.max").read_text(), int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
        return max(0, int(limit) - used + cached)
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def give_back_memory() -> None:
    """Return freed memory from the allocator to the system, with glibc; other allocators are left as they are."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, for a process that allocates the same sizes at every step.

    By default glibc returns every large tensor to the system at once and maps it again, page by page, at the next
    step: a sixth of a training step on a CPU (docs/choices.md). Other allocators are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
