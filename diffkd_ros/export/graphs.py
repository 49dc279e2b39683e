# SPDX-License-Identifier: Apache-2.0
"""The student as two ONNX graphs: `encoder.onnx` for every agent, `ego.onnx` for the ego."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from diffkd_ros.model.student import Student
from diffkd_ros.runtime.detector import OUTPUTS as EGO_OUTPUTS

OPSET = 18
MAX_POINTS = 1 << 20
ENCODER_OUTPUTS = ['feature', 'density']


class EncoderGraph(nn.Module):
    """Points (p, 4) to feature (1, c, h, w) and density (1, 1, h, w)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.encoder = student.encoder

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Encode one cloud."""
        return self.encoder(points, torch.zeros_like(points[:, 0], dtype=torch.long), 1)


class EgoGraph(nn.Module):
    """Agents' features, densities and warps to the head's and the fusion's maps, see `runtime.detector`."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, features: Tensor, density: Tensor, ego_to_agent: Tensor) -> tuple[Tensor, ...]:
        """Restore, warp, fuse, detect; see `Student.forward`."""
        heatmap, regression, fusion = self.student(features, density, ego_to_agent)
        energy = fusion.restored.abs().mean(dim=1, keepdim=True)
        return heatmap, regression, fusion.share, fusion.coverage, fusion.reliability, energy


def strip_origin(path: Path) -> None:
    """Remove the exporter's notes on the Python code of each node, which include folder names.

    The bytes of the graph then depend on weights and structure only.
    """
    model = onnx.load(path)
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info]
    parts += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in parts:
        part.doc_string = ''
        del part.metadata_props[:]
    onnx.save(model, path)


def _export(
    graph: nn.Module, example: tuple[Tensor, ...], path: Path, names: tuple[list[str], list[str]], shapes: Any
) -> None:
    """Write a graph, given the names of its inputs and outputs and the dynamic shapes of its inputs."""
    inputs, outputs = names
    torch.onnx.export(
        graph.eval(),
        example,
        path,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=shapes,
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    strip_origin(path)


def export_encoder(student: Student, path: Path) -> None:
    """Write the encoder's graph; batch norm is folded.

    Args:
        student: trained, on the CPU; set to evaluation mode.
        path: file to write.
    """
    shapes = {'points': {0: torch.export.Dim('points', min=1, max=MAX_POINTS)}}
    graph = EncoderGraph(student.eval())
    _export(graph, (torch.rand(1000, 4),), path, (['points'], ENCODER_OUTPUTS), shapes)


def export_ego(student: Student, path: Path, max_agents: int) -> None:
    """Write the ego's graph; the diffusion's steps are unrolled.

    Args:
        student: trained, on the CPU; set to evaluation mode.
        path: file to write.
        max_agents: maximum number of agents.
    """
    config = student.config
    agents = torch.export.Dim('agents', min=1, max=max_agents)
    example = (
        torch.rand(2, config.channels, config.height, config.width),
        torch.rand(2, 1, config.height, config.width),
        torch.eye(2, 3).repeat(2, 1, 1),
    )
    names = ['features', 'density', 'ego_to_agent'], EGO_OUTPUTS
    _export(EgoGraph(student.eval()), example, path, names, ({0: agents},) * 3)
