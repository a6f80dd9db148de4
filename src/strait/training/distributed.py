"""Many processes, one training: they are brought up by accelerate, and networks are wrapped for them from outside.

``torchrun`` (or SLURM, or MPI) starts the processes; without one of them nothing here is touched, and accelerate need
not be installed. Every process draws the same numbers for the same global sample (``randomness``), so that two with
half a batch each learn what one learns with the whole.
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
    """The processes that a launcher started, or only this one; and where this one computes.

    While it lasts, all but the first are silent; an error of one of them is reported with its number.

    Raises:
        ValueError: if there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield ALONE, device
        return
    missing = [name for name in _LAUNCHED if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE: it is set, but {missing[0]} is not; start the processes with torchrun")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ValueError(f"several processes need {library_needed(error, 'train')}") from error
    state = PartialState(cpu=device.type == "cpu")
    # It says "cpu:0", which is not the device that tensors on a CPU say they are on.
    local = torch.device("cpu") if device.type == "cpu" else torch.device("cuda", state.local_process_index)
    ranks = Ranks(state.process_index, state.num_processes, local)
    try:
        with nullcontext() if ranks.first else _silence(ranks.rank), _peers():
            yield ranks, local
            dist.barrier()  # who leaves first must not take a connection along that another still reads from
    finally:
        # What was wrapped lies in cycles and holds on to the connections; left to the interpreter's end, their
        # threads would end it with an abort.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def _silence(rank: int) -> Iterator[None]:
    spoken = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        except OtherProcessFailed:
            raise SystemExit(2) from None  # it has been said already
        except (ValueError, OSError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError  # their own may take other arguments
            raise kind(f"process {rank}: {error}") from error
        finally:
            sys.stdout, sys.stderr = spoken


@contextmanager
def _peers() -> Iterator[None]:
    """A process that has died is seen by the others as a broken connection: a line, not a traceback."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "NCCL" in str(error)
        if not lost:
            raise
        reason = " ".join(first_line(error).split())
        raise OSError(
            f"another process of this run is gone ({reason}); rerun the command to resume from the last checkpoint"
        ) from error


def distribute(network: nn.Module, ranks: Ranks, parallel: Parallel, sometimes_unused: bool = False) -> nn.Module:
    """A network as it is to be called in training.

    Args:
        network: on its device; with ``fsdp`` its parameters become shards in place, so optimizers come after.
        ranks: with one process the network is returned unchanged.
        parallel: ``ddp``, a whole copy on each process; ``fsdp``, FSDP2's shards.
        sometimes_unused: whether some parameters get no gradient at some steps.
    """
    if ranks.size == 1:
        return network
    if parallel == "ddp":
        ids = [ranks.device] if ranks.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=sometimes_unused)
    for module in list(network.modules()):
        if hasattr(module, "keys_values"):
            # Called from outside its layer, once for all steps: it has to find its own weights there.
            fully_shard(module)
            register_fsdp_forward_method(module, "keys_values")
    for layers in network.modules():
        if isinstance(layers, nn.ModuleList):
            for layer in layers:
                fully_shard(layer)
    # Resharded each time: weights left whole after a look at the averaged ones would be trained with.
    fully_shard(network, reshard_after_forward=True)
    return network


def no_averaging(networks: Iterable[nn.Module], asked: bool) -> AbstractContextManager[object]:
    """While it lasts, backward passes add up gradients without averaging them, as all but the last of a step's
    pieces should. (FSDP2 averages each time, which comes to the same and keeps only shards in memory.)"""
    if not asked:
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
    """Average the gradients of a network that is not wrapped: one whose loss holds gradients of gradients (R1),
    which DDP does not carry."""
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
    """A tensor with the shards of all processes put together; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Tensors for the first process to write; the others get none: those in shards are put together one after
    the other and kept outside its GPU, others are unchanged. Every process must ask, for the same names in the same
    order."""
    for_first: dict[str, Tensor] = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if ranks.first:
            for_first[name] = full.cpu() if isinstance(value, DTensor) else value
    return for_first


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as another one lies: this process's shard of it where that is sharded."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    local = value.to(like.device)
    return distribute_tensor(local, like.device_mesh, like.placements, src_data_rank=None)
