# SPDX-License-Identifier: Apache-2.0
"""Plots of a study of the layered message: AP over bytes, and over losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffkd_ros.evidence.link_results import LinkResults, LossPoint, RatePoint
from diffkd_ros.evidence.plots import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE = 'link_rate.png'
LOSS = 'link_loss.png'
_COLUMNS = ('clean', 'corrupted')
_ROWS = ('ap50', 'ap70')


def draw(results: LinkResults, folder: Path) -> None:
    """Write the plots for which there are figures."""
    if results.rate:
        save_png(_rate(results), folder / RATE)
    panels = {'chunks lost independently': results.loss, 'chunks lost in bursts': results.burst}
    shown = {title: curves for title, curves in panels.items() if any(curves.values())}
    if shown:
        save_png(_loss(shown, results.labels), folder / LOSS)


def _rate(results: LinkResults) -> Figure:
    from matplotlib.figure import Figure

    points = [point for curve in results.rate.values() for point in curve]
    columns = [c for c in _COLUMNS if not all(math.isnan(getattr(point, f'{c}_ap50')) for point in points)]
    figure = Figure((0.6 + 4.2 * len(columns), 6.4), layout='constrained')
    axes = figure.subplots(2, len(columns), sharex=True, squeeze=False)
    for row, threshold in zip(axes, _ROWS, strict=True):
        for axis, column in zip(row, columns, strict=True):
            for name, points in results.rate.items():
                _curve(axis, points, f'{column}_{threshold}', results.labels[name])
            axis.set(title=column, xscale='log', ylabel=f'AP@0.{threshold[-2]}, %')
            axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel('kB of a sweep')
    _legend(figure, axes[0, 0])
    return figure


def _curve(axis: Axes, points: Sequence[RatePoint], key: str, label: str) -> None:
    # Without bytes there is no place on the axis.
    shown = [point for point in points if point.kb > 0]
    values = [100 * getattr(point, key) for point in shown]
    axis.plot([point.kb for point in shown], values, marker='o', ms=3, label=label)


def _loss(panels: Mapping[str, Mapping[str, Sequence[LossPoint]]], labels: Mapping[str, str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((4.6 * len(panels), 4.0), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, points in curves.items():
            share = [100 * point.share for point in points]
            low, high = ([100 * getattr(point, f'ap70_{end}') for point in points] for end in ('low', 'high'))
            axis.plot(share, [100 * point.ap70 for point in points], marker='o', ms=3, label=labels[name])
            axis.fill_between(share, low, high, alpha=0.12)
        axis.set(title=title, xlabel='lost, % of the chunks')
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('AP@0.7, %')
    _legend(figure, axes[0])
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    """Below the plots, where it hides no curve."""
    figure.legend(*axis.get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
