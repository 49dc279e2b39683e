# SPDX-License-Identifier: Apache-2.0
"""The student as ONNX graphs.

`encoder.onnx` is run by every agent and `ego.onnx` by the ego. With a layered message, an agent also runs
`sender.onnx` on its own map, and the ego `restore.onnx` on its neighbours'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor, nn

from diffkd_ros.model.backbone import covered_cells
from diffkd_ros.model.context import BOX_MAPS, Context, last_of, pooled, views_of, with_egos
from diffkd_ros.model.student import Student
from diffkd_ros.runtime.detector import OUTPUTS as EGO_OUTPUTS
from diffkd_ros.runtime.link.restorer import LAST_INPUTS
from diffkd_ros.runtime.link.sender import OUTPUTS as SENDER_OUTPUTS

OPSET = 18
MAX_POINTS = 1 << 20
_OPERATORS: Any = onnxscript.opset18
ENCODER_OUTPUTS = ['feature', 'density']
RESTORE_INPUTS = ['ego_feature', 'ego_density', 'features', 'density', 'level', 'boxes', 'ego_to_agent']


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


class SenderGraph(nn.Module):
    """Feature (1, c, h, w) and density (1, 1, h, w) to what the layered message is made of.

    Coarse codes are float32, as ONNX Runtime's sessions here take and give floats only. The codes of cells
    are found later, only for those that are sent.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        assert student.sender is not None, 'a student with a layered message has a sender'
        self.sender, self.scale = student.sender, student.restoration

    def forward(self, feature: Tensor, density: Tensor) -> tuple[Tensor, ...]:
        """Detect, code tiles and rank them."""
        normal, occupied = self.scale.normalise(feature), covered_cells(density)
        sender, codec = self.sender, self.sender.codec
        heatmap, regression = sender.detect(feature)
        coarse = codec.coarse_codes(normal, occupied).float()[:, None]
        benefit = sender.ranking(normal, occupied, heatmap)
        return heatmap, regression, coarse, normal, occupied, benefit


class RestoreGraph(nn.Module):
    """The ego's map and neighbours' as received to restored maps.

    Without a memory, the neighbours' are restored, else the ego's, too, and a second output has the density
    of the neighbours after restoration: 1 in cells that may hold something now or did before.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(
        self,
        ego_feature: Tensor,
        ego_density: Tensor,
        features: Tensor,
        density: Tensor,
        level: Tensor,
        boxes: Tensor,
        ego_to_agent: Tensor,
        *last: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore.

        Args:
            ego_feature: (1, c, h, w).
            ego_density: (1, 1, h, w).
            features: (m, c, h, w) of the neighbours, each in its own grid.
            density: (m, 1, h, w) 1 in cells that may hold something, else 0.
            level: (m, 1, h, w), see `model.context.Context`.
            boxes: (m, 9, h, w), see `model.context.BOX_MAPS`.
            ego_to_agent: (m, 2, 3), see `model.fusion.warp`.
            last: `LAST_INPUTS` of a model with a memory, of the ego and m neighbours: the maps as known at
                the last sweep (1 + m, c, h, w), their occupied cells (1 + m, 1, h, w), the age in seconds
                (1 + m, 1) and the warps from the grid of now to that of then (1 + m, 2, 3), see
                `model.context.last_of`.

        Returns:
            Without a memory, the restored maps (m, c, h, w); else those of the ego and the neighbours
            (1 + m, c, h, w), and the neighbours' density (m, 1, h, w), 1 in cells that may hold something now
            or did before, else 0.
        """
        restoration, vectors = self.student.restoration, self.student.config.vectors
        # An agent's coverage is where something of its map is known.
        own = pooled(restoration.normalise(ego_feature), covered_cells(ego_density))
        theirs = pooled(restoration.normalise(features), (level > 0).to(level.dtype))
        ego, others = views_of(own, theirs[None], ego_to_agent, vectors)
        missing = (level < 1).to(level.dtype) * density
        if not last:
            return restoration(features, density, Context(missing, level, boxes, ego, others))
        maps, occupied, age, now_to_then = last
        memory = last_of(restoration.normalise(maps), occupied, age, now_to_then, vectors)
        density = torch.maximum(density, memory[1][1:])
        # The ego's own map is complete, and it does not send itself boxes.
        nothing, every = torch.zeros_like(ego_density), torch.ones_like(ego_density)
        context = Context(
            torch.cat((nothing, missing)),
            torch.cat((every, level)),
            torch.cat((nothing.expand(-1, boxes.shape[1], -1, -1), boxes)),
            with_egos(ego, 1),
            with_egos(others, 1),
            *memory,
        )
        features = torch.cat((ego_feature, features))
        return restoration(features, torch.cat((ego_density, density)), context), density


def _index_reduce(grid: Any, dim: int, index: Any, source: Any, reduce: str) -> Any:
    """The rows' maximum of `model.exported.maximum_per_cell`, for which the exporter has no operator."""
    assert (dim, reduce) == (0, 'amax')
    rows = _OPERATORS.Unsqueeze(index, _OPERATORS.Constant(value_ints=[1]))
    return _OPERATORS.ScatterND(grid, rows, source, reduction='max')


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
        custom_translation_table={torch.ops.aten.index_reduce.default: _index_reduce},
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


def export_sender(student: Student, path: Path) -> None:
    """Write the graph of the layered message; arguments as for `export_encoder`."""
    config = student.config
    size = config.height, config.width
    example = torch.rand(1, config.channels, *size), torch.rand(1, 1, *size)
    _export(SenderGraph(student.eval()), example, path, (['feature', 'density'], SENDER_OUTPUTS), None)


def export_restore(student: Student, path: Path, max_agents: int) -> None:
    """Write the graph that restores neighbours' maps; arguments as for `export_ego`."""
    config = student.config
    size = config.height, config.width
    neighbours = torch.export.Dim('neighbours', min=1, max=max_agents - 1)
    example: tuple[Tensor, ...] = (
        torch.rand(1, config.channels, *size),
        torch.rand(1, 1, *size),
        torch.rand(2, config.channels, *size),
        torch.ones(2, 1, *size),
        torch.rand(2, 1, *size).round(),
        torch.rand(2, BOX_MAPS, *size),
        torch.eye(2, 3).repeat(2, 1, 1),
    )
    fixed: dict[int, Any] = {}
    shapes: tuple[Any, ...] = (fixed, fixed, *({0: neighbours},) * 5)
    names, outputs = RESTORE_INPUTS, ['restored']
    if config.memory:
        last = (example[2], example[3], torch.zeros(2, 1), example[6])
        example += tuple(torch.cat((part, part[:1])) for part in last)
        shapes += (({0: neighbours + 1},) * 4,)
        names, outputs = [*RESTORE_INPUTS, *LAST_INPUTS], ['restored', 'possible']
    _export(RestoreGraph(student.eval()), example, path, (names, outputs), shapes)
