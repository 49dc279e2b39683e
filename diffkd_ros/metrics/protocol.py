# SPDX-License-Identifier: Apache-2.0
"""Evaluation protocols: ranges and filters of truths and detections, with presets of published ones.

The presets follow the code behind published figures: OpenCOOD (31ba160; DSRC and CoopDiff share its rules),
HEAL (827e485) and CoAlign (31f970e). In all of them a truth counts if its eight corners lie in the range,
with or without returns on it, and the ego's own vehicle is a truth if the ground truth lists it. Detections
must lie in the same range and pass two more filters: no extent over 6 m along x or y of the ego's frame (so
whether a long vehicle can be found depends on its heading), and nothing below -3 m or above 1 m.

That code applies these two filters before non-maximum suppression. Here they come after it, which only
matters if a box they drop had suppressed one that they keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import corners, ground_truth_in, within
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError, check_thresholds


class Containment(str, Enum):
    """When a box is in the range."""

    CENTRE = 'centre'
    """Its centre lies in it, the lower limits included and the upper ones not."""
    ALL_CORNERS = 'all_corners'
    """All its eight corners lie in it, all limits included."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Selects the truths and detections of a frame that are scored.

    Attributes:
        name: as written in tables and files.
        evaluation_range: x_min, y_min, z_min, x_max, y_max, z_max in metres in the ego's LiDAR frame; the z
            limits may be infinite.
        containment: when a truth or a detection is in that range.
        min_points: truths with fewer returns are ignored: neither hit nor miss.
        own_vehicle: whether the ego's own box is a truth if the ground truth lists it.
        max_extent: detections that span more than this along x or y are dropped, metres; None for no limit.
        height_limits: detections that reach below or above are dropped, metres in z; None for no limit.
        order: of the detections, as in the published figures.
        iou_thresholds: IoU at which AP is computed.

    Raises:
        EvaluationError: if the range is empty or a threshold is out of (0, 1] or given twice.
    """

    name: str
    evaluation_range: tuple[float, float, float, float, float, float]
    containment: Containment = Containment.ALL_CORNERS
    min_points: int = 0
    own_vehicle: bool = True
    max_extent: float | None = 6.0
    height_limits: tuple[float, float] | None = (-3.0, 1.0)
    order: DetectionOrder = DetectionOrder.GLOBAL
    iou_thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)

    def __post_init__(self) -> None:
        low, high = np.reshape(self.evaluation_range, (2, 3))
        if not (low < high).all():
            raise EvaluationError(
                f'protocol {self.name!r}: the range must be x_min, y_min, z_min, x_max, y_max, z_max '
                f'with min < max, got {self.evaluation_range}'
            )
        check_thresholds(self.iou_thresholds)

    def truth(self, frame: CoopFrame) -> Boxes3D:
        """The frame's truths in the range, including those with few returns, in the ego's LiDAR frame.

        Raises:
            EvaluationError: if the frame carries no ground truth.
        """
        if frame.ground_truth is None:
            raise EvaluationError(f'frame {frame.index} of scenario {frame.scenario!r} has no ground truth')
        return self._in_range(ground_truth_in(frame, frame.ego, own=self.own_vehicle))

    def detections(self, detections: Boxes3D) -> Boxes3D:
        """The detections that are scored, in the ego's LiDAR frame."""
        kept = self._in_range(detections)
        box = corners(kept.boxes)
        low, high = box.min(axis=1), box.max(axis=1)
        keep = np.ones(len(kept), np.bool_)
        if self.max_extent is not None:
            keep &= (high - low)[:, :2].max(axis=1, initial=0.0) <= self.max_extent
        if self.height_limits is not None:
            keep &= (low[:, 2] >= self.height_limits[0]) & (high[:, 2] <= self.height_limits[1])
        return kept[keep]

    def _in_range(self, boxes: Boxes3D) -> Boxes3D:
        low, high = np.reshape(self.evaluation_range, (2, 3))
        if self.containment is Containment.ALL_CORNERS:
            box = corners(boxes.boxes)
            return boxes[np.all((box >= low) & (box <= high), axis=(1, 2))]
        z = boxes.boxes[:, 2]
        return within(boxes[(z >= low[2]) & (z < high[2])], low[0], low[1], high[0], high[1])


_OWN = Protocol(
    'sim',
    (-51.2, -25.6, -np.inf, 51.2, 25.6, np.inf),
    containment=Containment.CENTRE,
    min_points=5,
    own_vehicle=False,
    max_extent=None,
    height_limits=None,
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _OWN,
        Protocol('opencood', (-140.0, -40.0, -3.0, 140.0, 40.0, 1.0), order=DetectionOrder.PER_FRAME),
        Protocol('heal', (-102.4, -102.4, -3.0, 102.4, 102.4, 1.0)),
        Protocol('heal_dair', (-102.4, -51.2, -3.5, 102.4, 51.2, 1.5)),
        Protocol('coalign_dair', (-100.8, -40.0, -3.5, 100.8, 40.0, 1.5)),
        Protocol(
            'v2v4real',
            (-100.0, -40.0, -np.inf, 100.0, 40.0, np.inf),
            max_extent=None,
            height_limits=None,
            order=DetectionOrder.PER_FRAME,
        ),
    )
}
"""The presets by name: `sim`, this project's own for the simulator (102.4 x 51.2 m); `opencood` for OPV2V;
HEAL's `heal` for OPV2V and `heal_dair` for DAIR-V2X; CoAlign's `coalign_dair` for DAIR-V2X; `v2v4real` for
V2V4Real (932c748) and V2X-Real, whose code has the same range and neither of the two filters. Its limits in
height, which two corners must lie in, are left out."""


def protocol_named(name: str) -> Protocol:
    """Look up a preset.

    Raises:
        EvaluationError: if there is no such preset; lists the known ones.
    """
    if name not in PROTOCOLS:
        raise EvaluationError(f'no protocol {name!r}; known are {", ".join(PROTOCOLS)}')
    return PROTOCOLS[name]
