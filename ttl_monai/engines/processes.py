"""Training in several processes, one a device."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from timm.layers import convert_sync_batchnorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def launched(name: str) -> int:
    """A number that torchrun gives each process, such as RANK (over all machines) or LOCAL_RANK (on this one).

    Raises:
        ValueError: there is none: the command was not launched by torchrun.
    """
    value = os.environ.get(name)
    if value is None:
        raise ValueError(
            f"multi_gpu_*.json expects one process a device, launched by torchrun, but {name} is not set. Launch it as "
            "torchrun --standalone --nproc_per_node=2 -m monai.bundle run --config_file ..., or leave the overlay out"
        )
    return int(value)


def join_processes(device: torch.device) -> None:
    """Join the processes that torchrun started: NCCL with CUDA, else gloo.

    Raises:
        ValueError: torchrun started none.
    """
    if torch.distributed.is_initialized():
        return
    launched("RANK")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A lost process ends the others in minutes, not in the half hour of the default.
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=5))


def synchronise_norms(network: torch.nn.Module) -> torch.nn.Module:
    """Let batch norms that train take their statistics over all processes, in place.

    Frozen ones stay as they are: a conversion would make them follow `train()` again. timm's conversion is used
    because torch's drops the activation of timm's fused norms.

    Args:
        network: any network.

    Returns:
        The network.
    """
    norms = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and any(each.requires_grad for each in module.parameters(recurse=False))
    ]
    for name, module in norms:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, convert_sync_batchnorm(module))
    return network


def distribute(
    network: torch.nn.Module, *, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
) -> DistributedDataParallel:
    """Wrap a network for training in several processes; on CUDA its batch norms are synchronised.

    Args:
        network: the network, equal in all processes.
        device: this process's device.
        memory_format: layout of the weights.

    Returns:
        The wrapped network, on the device.
    """
    cuda = device.type == "cuda"
    network = (synchronise_norms(network) if cuda else network).to(device)
    return DistributedDataParallel(network.to(memory_format=memory_format), device_ids=[device] if cuda else None)
