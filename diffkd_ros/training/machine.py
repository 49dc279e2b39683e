# SPDX-License-Identifier: Apache-2.0
"""The devices of a training run."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, TensorBoardLogger
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from diffkd_ros.errors import DiffkdError

BFLOAT16 = ('avx512_bf16', 'amx_bf16', 'bf16')
"""Names in `torch.cpu.get_capabilities`, on x86 and ARM, of hardware support for bfloat16."""

_OPEN_FILES = 65536


@dataclass(frozen=True)
class Machine:
    """The devices to train on. Under `torchrun`, its numbers of devices and nodes are used.

    Attributes:
        accelerator: of Lightning Fabric: `auto`, `cpu`, `gpu`, ...
        devices: number of devices of this node, or `auto`.
        nodes: number of nodes.
        threads: CPU threads of each process.
        workers: processes that make samples, for each training process; None for the recipe's number.
    """

    accelerator: str = 'auto'
    devices: int | str = 1
    nodes: int = 1
    threads: int = 1
    workers: int | None = None

    def prepare(self) -> None:
        """Set what holds for the whole process: threads, open files and the arithmetic of a GPU."""
        torch.set_num_threads(self.threads)
        # Batches that worker processes have made are open files until they are used.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        # As torch's convolutions do by default.
        torch.backends.cuda.matmul.allow_tf32 = True

    def fabric(self, out: Path) -> Fabric:
        """Create Fabric, with loggers that write to `out`.

        Raises:
            DiffkdError: if this machine has no such devices.
        """
        devices, nodes = self.devices, self.nodes
        if TorchElasticEnvironment.detect():
            devices, nodes = int(os.environ['LOCAL_WORLD_SIZE']), int(os.environ['GROUP_WORLD_SIZE'])
        several = devices != 1 or nodes > 1
        try:
            return Fabric(
                accelerator=self.accelerator,
                devices=devices,
                num_nodes=nodes,
                # No stage uses all parameters of the student.
                strategy='ddp_find_unused_parameters_true' if several else 'auto',
                loggers=[
                    CSVLogger(out, 'csv', flush_logs_every_n_steps=1),
                    TensorBoardLogger(out, 'tensorboard'),
                ],
            )
        except (ImportError, MisconfigurationException, RuntimeError, ValueError) as error:
            raise DiffkdError(f'accelerator {self.accelerator}, {devices} devices: {error}') from error


def warn_of_slow_precision(fabric: Fabric, precision: str) -> None:
    """Print a warning if this processor would emulate bfloat16."""
    if precision != '32-true' and fabric.device.type == 'cpu' and not _has_bfloat16():
        fabric.print(
            f'this processor has no bfloat16 instructions: with precision {precision} '
            'a step can take ten times as long as with 32-true'
        )


def _has_bfloat16() -> bool:
    """Whether the processor has bfloat16 instructions; True if this torch cannot say."""
    describe = getattr(torch.cpu, 'get_capabilities', None)
    return describe is None or any(describe().get(name) for name in BFLOAT16)
