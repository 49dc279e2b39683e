# SPDX-License-Identifier: Apache-2.0
"""The scores on held-out frames during a run, as a file and a plot: whether it has reached its plateau."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffkd_ros.files import whole_file
from diffkd_ros.metrics.result_file import write_json

CURVE = 'curve.json'
PLOT = 'curve.png'


def write_curve(folder: Path, curve: list[dict[str, Any]]) -> None:
    """Write `curve.json` and, if Matplotlib is installed, `curve.png`.

    Args:
        folder: of the run.
        curve: one dict per scoring: `stage`, its `samples` so far, and `scores` as in `training.validation`.
    """
    write_json(folder / CURVE, curve)
    if curve and find_spec('matplotlib') is not None:
        _draw(folder / PLOT, curve)


def _draw(path: Path, curve: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(point['stage'] for point in curve))
    figure = Figure((3.6 * len(stages) + 1, 3.4), layout='constrained')
    panels = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axis, stage in zip(panels, stages, strict=True):
        points = [point for point in curve if point['stage'] == stage]
        for who in points[-1]['scores']:
            known = [point for point in points if who in point['scores']]
            for style, key in (('-', 'ap50'), ('--', 'ap70')):
                values = [100 * point['scores'][who][key] for point in known]
                label = f'{who} AP@0.{key[2]}'.replace('_', ' ')
                axis.plot([point['samples'] for point in known], values, style, marker='o', ms=3, label=label)
        axis.set(title=stage, xlabel='samples')
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    panels[0].set(ylabel='AP, %')
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=120)
