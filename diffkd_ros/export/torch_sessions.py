# SPDX-License-Identifier: Apache-2.0
"""A model folder without graphs, run by torch: for evaluation only, not for the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from diffkd_ros.export.graphs import ENCODER_OUTPUTS, EgoGraph, EncoderGraph
from diffkd_ros.export.model_folder import CONFIG
from diffkd_ros.model.sparse_encoder import SparseConvolutionError
from diffkd_ros.model.student import Student, StudentConfig
from diffkd_ros.runtime.card import ModelCard, ModelError
from diffkd_ros.runtime.detector import OUTPUTS as EGO_OUTPUTS


class TorchSession:
    """`EncoderGraph` or `EgoGraph` with the interface of an ONNX Runtime session; `outputs` are its names."""

    def __init__(self, half: nn.Module, outputs: Sequence[str]) -> None:
        self._half, self._outputs = half.eval(), list(outputs)

    @torch.no_grad()
    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Compute the named outputs, in this order."""
        found = self._half(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return [found[self._outputs.index(name)].numpy() for name in names]


def torch_sessions(card: ModelCard) -> tuple[TorchSession, TorchSession]:
    """Load encoder and ego part of a model whose card says `runtime: torch`, on one CPU thread.

    Raises:
        ModelError: if the weights do not load, or a package that the model needs is missing.
    """
    path = card.student_path
    try:
        with safe_open(path, 'pt') as file:
            config = TypeAdapter(StudentConfig).validate_json(file.metadata()[CONFIG])
        student = Student(config)
        student.load_state_dict(load_file(path))
    except SparseConvolutionError as error:
        raise ModelError(f'{path}: {error}') from error
    except (OSError, SafetensorError, KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise ModelError(f'{path} does not load: {error}') from error
    torch.set_num_threads(1)  # as for ONNX Runtime: an evaluation runs one process per core
    return TorchSession(EncoderGraph(student), ENCODER_OUTPUTS), TorchSession(EgoGraph(student), EGO_OUTPUTS)
