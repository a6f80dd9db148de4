"""Training with several processes: accelerate initialises them, and networks are wrapped from outside.

``torchrun`` (or SLURM, or MPI) starts the processes; a single process needs neither that nor accelerate. Random
numbers are a function of the global sample (``randomness``), so two processes with half a batch each train like one
with the whole batch.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from strait.runtime.messages import first_line, library_needed
from strait.runtime.ranks import ALONE, OtherProcessFailed, Ranks
from strait.training.config import Parallel

_LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@contextmanager
def launched(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """The processes that a launcher started (or only this one), and the device of this process.

    Inside the context all processes but the first are silent, and their errors name the process.

    Raises:
        ValueError: if there are several processes, but accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, device
        return
    missing = [name for name in _LAUNCHED if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is set, but {missing[0]} is not; start the processes with torchrun")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ValueError(f"several processes need {library_needed(error, 'train')}") from error
    state = PartialState(cpu=device.type == "cpu")
    # accelerate says "cpu:0", which differs from the device of CPU tensors, "cpu".
    local = torch.device("cpu") if device.type == "cpu" else torch.device("cuda", state.local_process_index)
    ranks = Ranks(state.process_index, state.num_processes, local)
    try:
        with nullcontext() if ranks.first else _silence(ranks.rank), _peers():
            yield ranks, local
            dist.barrier()  # the first to leave must not close a connection that another still reads from
    finally:
        # Wrapped networks are in reference cycles and hold connections, whose threads would abort the interpreter's
        # exit.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def _silence(rank: int) -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w") as devnull:
        sys.stdout = sys.stderr = devnull
        try:
            yield
        except OtherProcessFailed:
            raise SystemExit(2) from None  # already reported
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError  # subclasses may take other arguments
            raise kind(f"process {rank}: {error}") from error
        finally:
            sys.stdout, sys.stderr = streams


@contextmanager
def _peers() -> Iterator[None]:
    """Turn the broken connection that a process's death causes in the others into a one-line error."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "NCCL" in str(error)
        if not lost:
            raise
        reason = " ".join(first_line(error).split())
        raise OSError(
            f"another process of this run has died ({reason}); rerun the command to resume from the last checkpoint"
        ) from error


def distribute(network: nn.Module, ranks: Ranks, parallel: Parallel, sometimes_unused: bool = False) -> nn.Module:
    """The network to call in training.

    Args:
        network: on its device; ``fsdp`` shards its parameters in place, so create optimizers afterwards.
        ranks: a single process gets the network unchanged.
        parallel: ``ddp``, a copy in each process; ``fsdp``, FSDP2's shards.
        sometimes_unused: whether some parameters get no gradient in some steps.
    """
    if ranks.size == 1:
        return network
    if parallel == "ddp":
        ids = [ranks.device] if ranks.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=sometimes_unused)
    for module in list(network.modules()):
        if hasattr(module, "keys_values"):
            # Called outside its layer's forward, so its weights must be gathered on their own.
            fully_shard(module)
            register_fsdp_forward_method(module, "keys_values")
    for layers in network.modules():
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                fully_shard(layer)
    # Always reshard: otherwise averaged weights, gathered for evaluation, would stay in use for training.
    fully_shard(network, reshard_after_forward=True)
    return network


def no_averaging(networks: Iterable[nn.Module], enabled: bool) -> AbstractContextManager[object]:
    """Backward passes inside the context accumulate gradients without averaging them over processes, as for all pieces
    of a step but the last. (FSDP2 always averages: the result is the same, and only shards stay in memory.)"""
    if not enabled:
        return nullcontext()
    return _without_sync([network for network in networks if isinstance(network, DistributedDataParallel)])


@contextmanager
def _without_sync(networks: list[DistributedDataParallel]) -> Iterator[None]:
    before = [network.require_backward_grad_sync for network in networks]
    for network in networks:
        network.require_backward_grad_sync = False
    try:
        yield
    finally:
        for network, value in zip(networks, before, strict=True):
            network.require_backward_grad_sync = value


def average_gradients(network: nn.Module, ranks: Ranks) -> None:
    """Average the gradients of a network that is not wrapped, because its loss has second-order gradients (R1), which
    DDP does not support."""
    if ranks.size == 1:
        return
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= ranks.size
    for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))


def is_sharded(network: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in network.modules())


def whole(value: Tensor) -> Tensor:
    """The full tensor of a sharded one; others are returned unchanged. A collective call."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Full tensors on the first process, an empty dictionary on the others. Shards are gathered one tensor at a time
    and moved to the CPU. A collective call: every process needs the same names in the same order."""
    for_first: dict[str, Tensor] = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if ranks.first:
            for_first[name] = full.cpu() if isinstance(value, DTensor) else value
    return for_first


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor placed like another: this process's shard if that is sharded."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    local = value.to(like.device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
