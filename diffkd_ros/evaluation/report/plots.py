# SPDX-License-Identifier: Apache-2.0
"""The plots of the report, as SVG. Matplotlib is imported when something is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from diffkd_ros.corruptions import lookup
from diffkd_ros.evaluation.conditions import CLEAN, EGO_ALONE, Condition
from diffkd_ros.evaluation.measures import IOU, Evaluation, group_of
from diffkd_ros.metrics.breakdown import Visibility, by_visibility
from diffkd_ros.metrics.calibration import Reliability, detection_calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can distinguish.
_BLUE, _ORANGE, _GREEN, _PINK, _SKY = '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9'
_LINES = (_BLUE, _ORANGE, _GREEN, _PINK, _SKY)
_INK, _FAINT, _GRID = '#22262e', '#6b7280', '#e3e6eb'
_STYLE: Any = {
    'font.size': 9.0,
    'axes.edgecolor': _FAINT,
    'axes.labelcolor': _INK,
    'axes.titlesize': 9.5,
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': _GRID,
    'xtick.color': _INK,
    'ytick.color': _INK,
    'legend.frameon': False,
    'lines.linewidth': 1.6,
    'lines.markersize': 4.5,
    'svg.hashsalt': 'diffkd',
}
_WIDTH = 10.2  # inches
_CLEAN = Condition(CLEAN)
_ALONE = Condition(EGO_ALONE)
# By corruption: the parameter on the x axis, its label, and the factor to its unit.
_AXES: dict[str, tuple[str, str, float]] = {
    'tile_loss': ('tile_loss', 'tiles lost, %', 100.0),
    'message_loss': ('message_loss', 'messages lost, %', 100.0),
    'burst_loss': ('burst_loss', 'messages lost in bursts, %', 100.0),
    'delay': ('delay', 'delay, ms', 1000.0),
    'bandwidth': ('bandwidth', 'Mbit/s for each sender', 1.0),
    'quantisation': ('bits', 'bits for each value', 1.0),
}
_POSES = {
    'pose_gaussian': 'Gaussian, m and degrees',
    'pose_laplace': 'Laplace, m and degrees',
    'pose_constant_offset': 'one constant offset, m and degrees',
    'pose_gaussian_radians': 'Gaussian, m and radians',
}


def readable(name: str) -> str:
    """A corruption's name as text."""
    return name.replace('_', ' ')


def _svg(draw: Callable[[], Figure]) -> str:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = draw()
        text = StringIO()
        figure.savefig(text, format='svg', bbox_inches='tight', metadata={'Date': None})
    return text.getvalue()


def _panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    figure = Figure(figsize=(_WIDTH, rows * height), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.ravel())
    for empty in axes[count:]:
        empty.set_axis_off()
    return figure, axes[:count]


def _reference_lines(axes: Axes, evaluation: Evaluation, iou: float, colour: str) -> None:
    alone = 100 * evaluation.average_precision(_ALONE, iou).estimate
    axes.axhline(alone, color=colour, linewidth=1.0, linestyle=(0, (1, 2)))


def by_corruption(evaluation: Evaluation) -> str:
    """Bars of AP of each corruption, the mean over its severities; whiskers show the best and the worst."""
    names = list(dict.fromkeys((level.corruption, level.who) for level in evaluation.corrupted))

    def draw() -> Figure:
        figure, (axes,) = _panels(1, 1, 3.6)
        places = np.arange(len(names))
        for shift, iou, colour in ((-0.2, 0.5, _BLUE), (0.2, 0.7, _ORANGE)):
            values = [
                [
                    100 * evaluation.average_precision(level, iou).estimate
                    for level in evaluation.corrupted
                    if (level.corruption, level.who) == name
                ]
                for name in names
            ]
            means = np.array([np.mean(part) for part in values])
            spread = [means - [min(part) for part in values], [max(part) for part in values] - means]
            axes.bar(places + shift, means, 0.36, color=colour, label=f'AP@{iou}')
            axes.errorbar(
                places + shift, means, np.abs(spread), fmt='none', ecolor=_INK, elinewidth=0.9, capsize=2
            )
            clean = 100 * evaluation.average_precision(_CLEAN, iou).estimate
            axes.axhline(clean, color=colour, linewidth=1.2, linestyle='--')
            _reference_lines(axes, evaluation, iou, colour)
        several = len({name for name, _ in names}) < len(names)
        labels = [readable(name) + (f' ({who})' if several else '') for name, who in names]
        axes.set_xticks(places, labels, rotation=38, ha='right', rotation_mode='anchor')
        axes.grid(axis='x', visible=False)
        axes.set_ylabel('AP, %')
        axes.set_ylim(0, None)
        _key(figure, axes)
        return figure

    return _svg(draw)


def _key(figure: Figure, axes: Axes) -> None:
    """Add a legend of the colours and lines above the figure."""
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    handles += [
        Line2D([], [], color=_FAINT, linestyle='--', linewidth=1.2, label='clean'),
        Line2D([], [], color=_FAINT, linestyle=(0, (1, 2)), linewidth=1.0, label='ego alone, clean'),
    ]
    figure.legend(handles=handles, loc='outside upper right', ncols=len(handles))


def _curve(
    axes: Axes, evaluation: Evaluation, x: Sequence[float], levels: Sequence[Condition], iou: float,
    colour: str, label: str,
) -> None:  # fmt: skip
    """AP over x with its interval as a band."""
    values = [evaluation.average_precision(level, iou) for level in levels]
    axes.plot(x, [100 * value.estimate for value in values], 'o-', color=colour, label=label)
    low = [100 * value.low for value in values]
    axes.fill_between(x, low, [100 * value.high for value in values], color=colour, alpha=0.14, linewidth=0)


def _of(evaluation: Evaluation, name: str) -> list[Condition]:
    """Levels of a corruption by severity, for the first choice of corrupted agents."""
    levels = [level for level in evaluation.corrupted if level.corruption == name]
    return [level for level in levels if level.who == levels[0].who]


def _named(evaluation: Evaluation, names: Iterable[str]) -> list[str]:
    return [name for name in names if _of(evaluation, name)]


def _share_scale(panels: Sequence[Axes]) -> None:
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)


def over_severity(evaluation: Evaluation) -> str | None:
    """AP of every sensor corruption over its severity; None if none was measured."""
    names = list(
        dict.fromkeys(c.corruption for c in evaluation.corrupted if lookup(c.corruption).family == 'lidar')
    )
    if not names:
        return None

    def draw() -> Figure:
        figure, panels = _panels(len(names), min(5, len(names)), 2.15)
        for axes, name in zip(panels, names, strict=True):
            levels = _of(evaluation, name)
            x = [0, *(level.severity for level in levels)]
            for iou, colour in ((0.5, _BLUE), (0.7, _ORANGE)):
                _curve(axes, evaluation, x, [_CLEAN, *levels], iou, colour, f'AP@{iou}')
                _reference_lines(axes, evaluation, iou, colour)
            held_out = ' (held out)' if group_of(levels[0]) == 'held_out' else ''
            axes.set_title(readable(name) + held_out)
            axes.set_xticks(x, ['clean', *(str(level) for level in x[1:])])
        _share_scale(panels)
        panels[0].set_ylabel('AP, %')
        panels[0].legend(loc='lower left')
        return figure

    return _svg(draw)


def over_pose_error(evaluation: Evaluation) -> str | None:
    """AP over the standard deviation of the pose, the paper's Fig. 3; None if none was measured."""
    names = _named(evaluation, _POSES)
    if not names:
        return None

    def draw() -> Figure:
        figure, panels = _panels(2, 2, 3.0)
        for axes, iou in zip(panels, (0.5, 0.7), strict=True):
            for name, colour in zip(names, _LINES, strict=False):
                levels = _of(evaluation, name)
                x = [0.0, *(lookup(name).parameters(level.severity)['position'] for level in levels)]
                _curve(axes, evaluation, x, [_CLEAN, *levels], iou, colour, _POSES[name])
            _reference_lines(axes, evaluation, iou, _FAINT)
            axes.set_title(f'AP@{iou}')
            axes.set_xlabel('standard deviation of position, m, and of heading')
        _share_scale(panels)
        panels[0].set_ylabel('AP, %')
        panels[0].legend(loc='lower left')
        return figure

    return _svg(draw)


def over_link(evaluation: Evaluation) -> str | None:
    """AP over loss, delay, bandwidth and bits; None if no link was measured."""
    names = _named(evaluation, _AXES)
    if not names:
        return None

    def draw() -> Figure:
        figure, panels = _panels(len(names), min(3, len(names)), 2.3)
        for axes, name in zip(panels, names, strict=True):
            levels = _of(evaluation, name)
            parameter, label, factor = _AXES[name]
            x = [factor * lookup(name).parameters(level.severity)[parameter] for level in levels]
            # A loss or delay of 0 is clean; bandwidth and bits have no such value.
            with_clean = name in ('tile_loss', 'message_loss', 'burst_loss', 'delay')
            shown = [_CLEAN, *levels] if with_clean else levels
            for iou, colour in ((0.5, _BLUE), (0.7, _ORANGE)):
                _curve(axes, evaluation, [0.0, *x] if with_clean else x, shown, iou, colour, f'AP@{iou}')
                clean = 100 * evaluation.average_precision(_CLEAN, iou).estimate
                axes.axhline(clean, color=colour, linewidth=1.0, linestyle='--')
                _reference_lines(axes, evaluation, iou, colour)
            axes.set_xlabel(label)
            axes.set_xticks([0.0, *x] if with_clean else x)
        _share_scale(panels)
        panels[0].set_ylabel('AP, %')
        _key(figure, panels[0])
        return figure

    return _svg(draw)


def reliability_diagrams(evaluation: Evaluation, levels: Sequence[Condition]) -> str:
    """Scores against precision at IoU 0.5 and against mean overlap, one panel a level."""

    def draw() -> Figure:
        figure, panels = _panels(len(levels), min(4, len(levels)), 3.0)
        for axes, level in zip(panels, levels, strict=True):
            axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.9, linestyle='--')
            every = evaluation.every_result(level)
            precision, overlap = detection_calibration(every, IOU), evaluation.calibration(level)
            _bins(axes, precision, _BLUE, 'precision at IoU 0.5')
            _bins(axes, overlap, _ORANGE, 'mean overlap')
            errors = f'D-ECE {precision.error:.3f}\nLaECE₀ {overlap.error:.3f}'
            axes.text(0.97, 0.04, errors, ha='right', fontsize=7.6, color=_FAINT)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect('equal')
            axes.set_title(describe(level))
            axes.set_xlabel('score')
        figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper right', ncols=2)
        return figure

    return _svg(draw)


def _bins(axes: Axes, part: Reliability, colour: str, name: str) -> None:
    axes.plot(part.score, part.target, 'o-', color=colour, markersize=2.6, linewidth=1.2, label=name)


def recall_by_visibility(evaluation: Evaluation, levels: Sequence[Condition]) -> str:
    """Recall and share of the vehicles by visibility: seen by the ego, by others only, or by no agent."""

    def draw() -> Figure:
        figure, (recall, share) = _panels(2, 2, 3.1)
        places = np.arange(len(levels))
        parts = [by_visibility(evaluation.results(level), IOU) for level in levels]
        bottom = np.zeros(len(levels))
        for k, (seen, colour) in enumerate(zip(Visibility, (_BLUE, _ORANGE, _FAINT), strict=True)):
            values = [100 * part[seen].recall for part in parts]
            label = _SEEN[seen]
            recall.bar(places + 0.27 * (k - 1), np.nan_to_num(values), 0.25, color=colour, label=label)
            counts = np.array([part[seen].truths for part in parts], float)
            totals = np.array([sum(p.truths for p in part.values()) for part in parts], float)
            shares = 100 * counts / np.maximum(totals, 1)
            share.bar(places, shares, 0.6, bottom=bottom, color=colour)
            bottom += shares
        for axes, title in ((recall, 'recall at IoU 0.5, %'), (share, 'share of the vehicles, %')):
            labels = [describe(level) for level in levels]
            axes.set_xticks(places, labels, rotation=35, ha='right', rotation_mode='anchor')
            axes.set_title(title)
            axes.grid(axis='x', visible=False)
            axes.set_ylim(0, 100)
        figure.legend(loc='outside lower center', ncols=3)
        return figure

    return _svg(draw)


_SEEN = {
    Visibility.EGO: 'seen by the ego',
    Visibility.OTHERS: 'seen by others only',
    Visibility.NONE: 'seen by no agent',
}


def describe(level: Condition) -> str:
    """A level as text, for example `fog 2`."""
    text = readable(level.corruption)
    return text if level.reference else f'{text} {level.severity}'


def worst_levels(evaluation: Evaluation, most: int) -> list[Condition]:
    """The worst level of each corruption by AP@0.7, the worst corruptions first.

    Sensors come before poses and links.
    """
    worst: dict[str, tuple[float, Condition]] = {}
    for level in evaluation.corrupted:
        value = evaluation.average_precision(level, 0.7).estimate
        value = -1.0 if math.isnan(value) else value
        if level.corruption not in worst or value < worst[level.corruption][0]:
            worst[level.corruption] = value, level
    ranked = sorted(
        worst.values(), key=lambda found: (lookup(found[1].corruption).family != 'lidar', found[0])
    )
    return [level for _, level in ranked[:most]]
