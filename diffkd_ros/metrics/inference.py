# SPDX-License-Identifier: Apache-2.0
"""Bit rate, latency, reliability and fusion weights over scored frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.metrics.frame_results import FrameResults

MESSAGES_PER_SECOND = 10.0
"""One message per turn of a vehicle's LiDAR."""


@dataclass(frozen=True, slots=True)
class InferenceFigures:
    """Figures over frames; NaN where no frame has one.

    Attributes:
        link_mbit_s: Mbit/s of a vehicle that sends `MESSAGES_PER_SECOND`; 0 if no message was sent.
        ego_reliability: mean over the frames.
        gate_ego: mean weight of the ego in the fusion.
        gate_neighbours: mean weight of the fused neighbours.
        encode_ms: median milliseconds from points to the ego's feature map.
        fuse_ms: median milliseconds from there to boxes.
    """

    link_mbit_s: float
    ego_reliability: float
    gate_ego: float
    gate_neighbours: float
    encode_ms: float
    fuse_ms: float


def inference_figures(results: FrameResults) -> InferenceFigures:
    """Summarise the inference columns of scored frames."""
    columns = results.inference
    messages = int(columns.messages.sum())
    size = float(columns.sent_bytes.sum()) / messages if messages else 0.0
    return InferenceFigures(
        8e-6 * size * MESSAGES_PER_SECOND,
        *(_mean(values) for values in (columns.reliability, columns.gate_ego, columns.gate_neighbours)),
        *(_median(values) for values in (columns.encode_ms, columns.fuse_ms)),
    )


def _mean(values: NDArray[np.float32]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else float('nan')


def _median(values: NDArray[np.float32]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float('nan')
