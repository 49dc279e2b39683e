# SPDX-License-Identifier: Apache-2.0
"""Plot of the ego's time over agents, and of the encoder's over points. Drawing imports Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffkd_ros.benchmark.comparison import CLASSIC, classic_ego, classic_encoding
from diffkd_ros.benchmark.simulation import AGENTS
from diffkd_ros.benchmark.vehicles import POINTS, STAGES, points_text, stage_row
from diffkd_ros.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(path: Path, title: str, times: Mapping[str, float]) -> None:
    """Write the plot as PNG; `times` are milliseconds by part, with or without the classic design.

    Raises:
        DiffkdError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.8), layout='constrained')
    figure.suptitle(title, fontsize=9)
    left, right = figure.subplots(1, 2)
    _egos(left, times)
    _encodings(right, times)
    for axis in (left, right):
        axis.set(ylabel='ms')
        axis.set_ylim(bottom=0)
        axis.grid(axis='y', alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(fontsize=7)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=150)


def _egos(axis: Axes, times: Mapping[str, float]) -> None:
    counts = range(1, AGENTS + 1)
    below = np.zeros(AGENTS)
    for stage in STAGES.values():
        if stage_row(stage, 1) in times:
            heights = np.array([times[stage_row(stage, count)] for count in counts])
            axis.bar(counts, heights, 0.6, bottom=below, label=stage)
            below += heights
    if classic_ego(1) in times:
        classic = [times[classic_ego(count)] for count in counts]
        axis.plot(counts, classic, 'k--o', ms=4, label=f'{CLASSIC}: fuse and head')
    axis.set(title='the ego', xlabel='agents')


def _encodings(axis: Axes, times: Mapping[str, float]) -> None:
    axis.plot(POINTS, [times[points_text(count)] for count in POINTS], '-o', ms=4, label='ours')
    if classic_encoding(POINTS[0]) in times:
        classic = [times[classic_encoding(count)] for count in POINTS]
        axis.plot(POINTS, classic, 'k--o', ms=4, label=CLASSIC)
    axis.set(title='a vehicle encodes its cloud', xlabel='points', xscale='log')
