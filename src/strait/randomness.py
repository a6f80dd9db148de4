"""Noise as a pure function: an integer hash of (seed, image, level, step, position, id).

The function is the same on every device. So image k of seed s does not depend on its batch, on the number of processes
or on other requests of a service, and a resumed run draws the same noise as an uninterrupted one.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed 64-bit number
_MIX_A = -0x40A7B892E31B1A47  # the two multipliers of the splitmix64 finaliser, signed
_MIX_B = -0x6B2FB644ECCEEE15
_UNIT = 2.0**-23


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed integers, without sign extension."""
    width = torch.iinfo(x.dtype).bits
    return (x >> bits).bitwise_and_((1 << (width - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_A
    x = (x ^ _shift_right(x, 27)) * _MIX_B
    return x ^ _shift_right(x, 31)


def key(*parts: int | Tensor) -> Tensor:
    """Hash integers into one 64-bit key; tensors are broadcast against each other.

    Args:
        parts: integers or int64 tensors, from the most general (the seed) to the most specific.

    Returns:
        int64 keys of the broadcast shape (a scalar tensor if every part is an int).
    """
    state = torch.zeros((), dtype=torch.int64)
    for part in parts:
        # operator.index also accepts numpy's integers.
        value = part.to(torch.int64) if isinstance(part, Tensor) else operator.index(part)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"seed: {value} does not fit into 64 bits")
        state = _mix((state ^ value) + _GOLDEN)
    return state


def image_seeds(seed: int | Tensor, indices: Tensor) -> Tensor:
    """One seed per image ``[batch]``, from the user's seed (or one per image) and the images' indices ``[batch]``."""
    return key(seed, indices)


def uniform(keys: Tensor) -> Tensor:
    """One number in (0, 1) for each key, float32, the same shape."""
    return (_shift_right(keys, 41).to(torch.float32) + 0.5) * _UNIT


def uniform_ids(keys: Tensor, count: int) -> Tensor:
    """``count`` numbers in (0, 1) for each key: ``[...]`` -> ``[..., count]`` float32.

    Computes in 32-bit integers, which halves the memory traffic: there is a number for every code of every position.
    Both halves of the key are used, so that two positions share noise only if all 64 bits are equal.
    """
    low, high = _to_int32(keys).unsqueeze(-1), _to_int32(keys >> 32).unsqueeze(-1)
    x = torch.arange(count, dtype=torch.int32, device=keys.device) * -0x61C88647 + low
    # In place: on a CPU, allocating results dominates the cost.
    x ^= _shift_right(x, 16)
    x *= -0x7A143595
    x ^= _shift_right(x, 15)
    x *= 0x2C1B3C6D
    x += high
    x ^= _shift_right(x, 16)
    x *= -0x3D4D51CB
    x ^= _shift_right(x, 15)
    # The upper 23 bits k become the mantissa of a float in [1, 2): (1 + k 2^-23) - (1 - 2^-24) = (k + 1/2) 2^-23.
    x = (x >> 9).bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000)
    return x.view(torch.float32).sub_(1 - _UNIT / 2)


def _to_int32(x: Tensor) -> Tensor:
    # Brought into range before the cast: the result of an overflowing cast depends on the device.
    return (((x & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


def gumbel(u: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in (0, 1)."""
    return torch.log(u).neg_().log_().neg_()


def permutation(length: int, *parts: int) -> Tensor:
    """A permutation of ``range(length)`` that depends only on the parts: int64 ``[length]``."""
    return torch.argsort(key(key(*parts), torch.arange(length)), stable=True)


def as_seed(*parts: int) -> int:
    """A non-negative Python integer, for libraries that take a seed."""
    return int(key(*parts).item()) & (2**63 - 1)
