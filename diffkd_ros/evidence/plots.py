# SPDX-License-Identifier: Apache-2.0
"""Plots of the fusion weights under corruption, and of the sampler's settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffkd_ros.evaluation.summary import Summary
from diffkd_ros.evidence.results import Evidence, MeasuredSteps
from diffkd_ros.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RELIABILITY = 'reliability.png'
STEPS = 'steps.png'


def draw(evidence: Evidence, folder: Path) -> None:
    """Write the plots for which there are figures."""
    if evidence.reliability is not None and evidence.reliability.corruptions:
        _reliability(evidence.reliability, folder / RELIABILITY)
    if evidence.steps:
        _steps(evidence.steps, folder / STEPS)


def _reliability(summary: Summary, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.6), layout='constrained')
    axes = figure.subplots(1, 2, sharex=True)
    for axis, key, title in (
        (axes[0], 'ego_reliability', "ego's own reliability"),
        (axes[1], 'gate_neighbours', "a neighbour's mean weight"),
    ):
        clean = getattr(summary.clean, key)
        axis.axhline(clean, color='0.6', lw=1)
        for name, figures in summary.corruptions.items():
            levels = sorted(figures.severities)
            values = [clean, *(getattr(figures.severities[level], key) for level in levels)]
            axis.plot([0, *levels], values, marker='o', ms=3, label=name.replace('_', ' '))
        axis.set(title=title, xlabel='severity; only the ego is corrupted')
        axis.set_xticks(range(1 + max(len(figures.severities) for figures in summary.corruptions.values())))
    axes[1].legend(fontsize=7)
    save_png(figure, path)


def _steps(settings: Sequence[MeasuredSteps], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.6), layout='constrained')
    axes = figure.subplots(1, 2)
    for axis, title in zip(axes, ('clean', 'corrupted'), strict=True):
        points = [
            (
                setting,
                setting.summary.latency_ms.fuse,
                100 * (setting.summary.clean if title == 'clean' else setting.corrupted).ap50,
            )
            for setting in settings
        ]
        for start in dict.fromkeys(setting.start for setting in settings if setting.steps):
            chosen = [point for point in points if point[0].start == start]
            axis.plot([x for _, x, _ in chosen], [y for *_, y in chosen], marker='o', ms=3, label=start)
            for setting, x, y in chosen:
                axis.annotate(str(setting.steps), (x, y), fontsize=7)
        for setting, x, y in points:
            if not setting.steps:
                axis.plot(x, y, 'k*', label='no restoration')
        axis.set(title=title, xlabel='fuse, ms', ylabel='AP@0.5, %')
        axis.legend(fontsize=7)
    save_png(figure, path)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format='png', dpi=150)
