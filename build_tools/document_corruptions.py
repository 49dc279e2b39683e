# SPDX-License-Identifier: Apache-2.0
"""One picture of every corruption, drawn from a simulated frame.

    python build_tools/document_corruptions.py docs/corruptions.png

Sweeps and maps are seen from above. Matplotlib is imported when something is drawn, not before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.corruptions import corrupt_frame, lookup, open_link
from diffkd_ros.frame import AgentSweep, CoopFrame
from diffkd_ros.geometry.boxes import bev_corners, count_points, ground_truth_in
from diffkd_ros.geometry.poses import inverse, transform_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BACKGROUND, _PANEL, _EDGE, _TEXT, _FAINT = '#0b0e14', '#10141d', '#2a3140', '#e6e9f0', '#98a2b3'
_KEPT, _LOST, _MOVED = '#7fa7d9', '#ff3b4e', '#ffd83d'
_EGO, _NEIGHBOUR, _TRUTH = '#59c8ff', '#ff9440', '#f4f6fa'
_COLUMNS = 3
_PANEL_SIZE = (5.6, 2.8)  # inches
_EXTENT = (-44.8, 44.8, -22.4, 22.4)  # x_min, x_max, y_min, y_max, metres
_POSE_VIEW = (11.0, 5.5)  # half the width and height of a pose panel, metres
_CELL = 0.8
_HEIGHT_BINS = np.linspace(-3.0, 1.0, 33)
_PERIOD = 100_000_000  # nanoseconds between messages
_MESSAGES = 40
_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class MapPayload:
    """A feature map as the links take it."""

    feature: NDArray[np.float32]
    density: NDArray[np.float32]


def draw_corruption_grid(frame: CoopFrame, seed: int = 0) -> Figure:
    """Draw a frame clean and under every corruption.

    Args:
        frame: with ground truth and at least one neighbour.
        seed: of the corruptions.
    """
    from matplotlib.figure import Figure

    panels: list[Callable[[Axes], None]] = [_clean(frame)]
    panels += [
        _sensor(frame, seed, 'beam_missing', 2),
        _sensor(frame, seed, 'motion_blur', 1, profile='lab'),
        _sensor(frame, seed, 'fog', 2),
        _sensor(frame, seed, 'crosstalk', 3),
        _sensor(frame, seed, 'electromagnetic_interference', 2),
        _sensor(frame, seed, 'wet_ground', 1, profile='lab'),
        _sensor(frame, seed, 'incomplete_echo', 1, profile='lab'),
        _sensor(frame, seed, 'incomplete_echo', 2),
        _sensor(frame, seed, 'snow', 2),
        _sensor(frame, seed, 'cross_sensor', 2),
        _pose(frame, seed, 'pose_gaussian'),
        _pose(frame, seed, 'pose_laplace'),
        _pose(frame, seed, 'pose_gaussian_radians'),
        _pose(frame, seed, 'pose_constant_offset'),
        _content(frame, seed, 'tile_loss', 2),
        _content(frame, seed, 'quantisation', 3),
        _content(frame, seed, 'bandwidth', 3),
        _chunks(seed, 'chunk_loss', 2),
        _chunks(seed, 'chunk_burst', 2),
        _schedule(seed, 'message_loss', 2),
        _schedule(seed, 'burst_loss', 2),
        _schedule(seed, 'delay', 3),
    ]
    rows = -(-len(panels) // _COLUMNS)
    size = (_COLUMNS * _PANEL_SIZE[0], rows * (_PANEL_SIZE[1] + 0.42) + 0.5)
    figure = Figure(figsize=size, facecolor=_BACKGROUND)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(
        left=0.012, right=0.988, bottom=0.008, top=1 - 0.78 / size[1], wspace=0.03, hspace=0.17
    )
    for axis in axes[len(panels) :]:
        axis.remove()
    for panel, axis in zip(panels, axes, strict=False):
        axis.set_facecolor(_PANEL)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color(_EDGE)
        panel(axis)
    _legend(figure, size)
    return figure


def _title(axis: Axes, name: str, note: str) -> None:
    axis.set_title(name, color=_TEXT, fontsize=12, loc='left', pad=4, fontweight='bold')
    axis.set_title(note, color=_FAINT, fontsize=9.5, loc='right', pad=4)


def _legend(figure: Figure, size: tuple[float, float]) -> None:
    x = 0.014
    for colour, text, width in (
        (_KEPT, 'unchanged return', 1.7),
        (_LOST, 'lost', 0.75),
        (_MOVED, 'displaced, or a return of fog or snow', 3.3),
        (_EGO, 'ego', 0.7),
        (_NEIGHBOUR, 'neighbour at its estimated pose', 2.9),
        (_TRUTH, 'truth', 0.9),
    ):
        y = 1 - 0.24 / size[1]
        figure.text(x, y, '■', color=colour, fontsize=12, va='center')
        figure.text(x + 0.2 / size[0], y, text, color=_TEXT, fontsize=11, va='center')
        x += width / size[0]


def _frame_axis(axis: Axes, x_min: float, x_max: float, y_min: float, y_max: float) -> None:
    axis.set_xlim(x_min, x_max)
    axis.set_ylim(y_min, y_max)
    axis.set_aspect('equal', adjustable='box')


def _dots(axis: Axes, points: NDArray[np.float32], colour: str, size: float = 0.8) -> None:
    axis.scatter(points[:, 0], points[:, 1], s=size, c=colour, linewidths=0, rasterized=True)


def _outlines(axis: Axes, boxes: NDArray[np.float64], colour: str, width: float) -> None:
    for corners in bev_corners(boxes):
        axis.fill(*corners.T, fill=False, edgecolor=colour, linewidth=width, alpha=0.9)


def _clean(frame: CoopFrame) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        points = frame.agents[frame.ego].points
        _dots(axis, points, _KEPT)
        _outlines(axis, ground_truth_in(frame, frame.ego).boxes, _TRUTH, 0.7)
        _frame_axis(axis, *_EXTENT)
        _title(axis, 'clean', f'{len(points)} returns of the ego')

    return draw


def _sensor(frame: CoopFrame, seed: int, name: str, severity: int, **settings: Any) -> Callable[[Axes], None]:
    before = frame.agents[frame.ego]
    # Corruptions keep the time of each return, so numbering the times identifies the returns.
    numbered = replace(before, time=np.arange(len(before.points), dtype=np.float32))
    marked = replace(frame, agents={**frame.agents, frame.ego: numbered})
    after = corrupt_frame(marked, name, severity, seed, who='ego', **settings).agents[frame.ego]

    def draw(axis: Axes) -> None:
        origin = _origin(after)
        moved = np.linalg.norm(after.points[:, :3] - before.points[origin, :3], axis=1) > 0.01
        lost = np.ones(len(before.points), np.bool_)
        lost[origin] = False
        layers = [(after.points[~moved], _KEPT, 0.8), (before.points[lost], _LOST, 0.6)]
        # The smaller layer on top, so that neither hides the other.
        for points, colour, dot in sorted(layers, key=lambda layer: -len(layer[0])):
            _dots(axis, points, colour, dot)
        _dots(axis, after.points[moved], _MOVED, 3.0 if moved.mean() < 0.05 else 0.8)
        _frame_axis(axis, *_EXTENT)
        shares = [
            f'{share:.0%} {what}'
            for share, what in ((lost.mean(), 'lost'), (moved.mean(), 'displaced'))
            if share
        ]
        profile = settings.get('profile', 'graded')
        level = 'lab' if profile == 'lab' else f'severity {severity}'
        reading = lookup(name).parameters(severity, profile).get('reading')
        level = f'{reading.replace("_", " ")}, {level}' if reading else level
        _title(axis, name, ', '.join([level, *shares]))

    return draw


def _origin(sweep: AgentSweep) -> NDArray[np.int64]:
    times = np.zeros(0) if sweep.time is None else sweep.time
    return times.astype(np.int64)


def _pose(frame: CoopFrame, seed: int, name: str) -> Callable[[Axes], None]:
    severity = 4

    def draw(axis: Axes) -> None:
        from_map = inverse(frame.agents[frame.ego].pose)
        neighbour, centre = _seen_by_both(frame)
        wrong = corrupt_frame(frame, name, severity, seed).agents[neighbour]
        own = frame.agents[frame.ego].points
        theirs = transform_points(from_map @ wrong.pose, wrong.points)
        _dots(axis, own, _EGO, 3.0)
        _dots(axis, theirs, _NEIGHBOUR, 3.0)
        _outlines(axis, ground_truth_in(frame, frame.ego).boxes, _TRUTH, 1.0)
        half_x, half_y = _POSE_VIEW
        _frame_axis(axis, centre[0] - half_x, centre[0] + half_x, centre[1] - half_y, centre[1] + half_y)
        level = lookup(name).parameters(severity)
        turn = level['heading'] if name.endswith('radians') else np.degrees(level['heading'])
        unit = 'rad' if name.endswith('radians') else 'deg'
        _title(axis, name, f'{level["position"]:g} m, {turn:g} {unit}')

    return draw


def _seen_by_both(frame: CoopFrame) -> tuple[int, NDArray[np.float64]]:
    """The neighbour and the position (x, y in the ego's frame) of the vehicle best seen by it and by the
    ego.
    """
    truth = ground_truth_in(frame, frame.ego).boxes
    by_ego = count_points(frame.agents[frame.ego].points, truth)
    from_map = inverse(frame.agents[frame.ego].pose)
    best, place, chosen = -1, np.zeros(2), frame.neighbours[0]
    for neighbour in frame.neighbours:
        sweep = frame.agents[neighbour]
        both = np.minimum(by_ego, count_points(transform_points(from_map @ sweep.pose, sweep.points), truth))
        if both.max() > best:
            best, place, chosen = int(both.max()), truth[both.argmax(), :2], neighbour
    return chosen, place


def _heights_map(points: NDArray[np.float32]) -> MapPayload:
    """A feature map without a network: logarithm of the returns per cell and height."""
    x = np.arange(_EXTENT[0], _EXTENT[1] + _CELL / 2, _CELL)
    y = np.arange(_EXTENT[2], _EXTENT[3] + _CELL / 2, _CELL)
    counts = np.histogramdd(points[:, [2, 1, 0]], [_HEIGHT_BINS, y, x])[0].astype(np.float32)
    return MapPayload(np.log1p(counts), np.log1p(counts.sum(axis=0)))


def _content(frame: CoopFrame, seed: int, name: str, severity: int) -> Callable[[Axes], None]:
    payload = _heights_map(frame.agents[frame.ego].points)
    link = open_link(name, severity, seed, frame.scenario, frame.ego)
    link.send(0, payload)
    arrived = link.receive(0)[0].payload

    def draw(axis: Axes) -> None:
        sent, energy = (np.linalg.norm(bev.feature, axis=0) for bev in (payload, arrived))
        gone = np.where((sent > 0) & (energy == 0), 1.0, np.nan)
        settings: dict[str, Any] = {'origin': 'lower', 'extent': _EXTENT, 'interpolation': 'nearest'}
        axis.imshow(
            np.where(energy > 0, energy, np.nan), cmap='viridis', vmin=0, vmax=sent.max() * 0.8, **settings
        )
        axis.imshow(gone, cmap=_single_colour(_LOST), alpha=0.8, **settings)
        _frame_axis(axis, *_EXTENT)
        row = lookup(name).parameters(severity)
        what = {
            'tile_loss': lambda: f'{row["tile_loss"]:.0%} of tiles of {row["tile"]} cells',
            'quantisation': lambda: f'{row["bits"]} bits',
            'bandwidth': lambda: f'{row["bandwidth"]:g} Mbit/s',
        }[name]()
        lost = 1 - (energy > 0).sum() / (sent > 0).sum()
        error = np.linalg.norm(arrived.feature - payload.feature) / np.linalg.norm(payload.feature)
        _title(axis, name, f'{what}, {lost:.0%} of cells lost, error {error:.1%}')

    return draw


def _single_colour(colour: str) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])


@dataclass(frozen=True, slots=True)
class ChunkPayload:
    """The numbers of a message's chunks."""

    chunks: list[int]


def _chunks(seed: int, name: str, severity: int) -> Callable[[Axes], None]:
    link = open_link(name, severity, seed, 'picture', 2)
    for k in range(_MESSAGES):
        link.send(k * _PERIOD, ChunkPayload(list(range(_CHUNKS))))
    lost = np.ones((_CHUNKS, _MESSAGES))
    for arrival in link.receive(_MESSAGES * _PERIOD):
        lost[arrival.payload.chunks, arrival.stamp // _PERIOD] = 0

    def draw(axis: Axes) -> None:
        from matplotlib.colors import ListedColormap

        colours = ListedColormap([_KEPT, _LOST])
        axis.pcolormesh(lost, cmap=colours, vmin=0, vmax=1, edgecolors=_PANEL, linewidth=1.5)
        axis.set_ylim(-1.0, _CHUNKS + 1.0)
        axis.text(
            0.4, -0.7, f'{_MESSAGES} messages of {_CHUNKS} chunks, sent upwards', color=_FAINT, fontsize=9
        )
        row = lookup(name).parameters(severity)
        what = f'{row[name]:.0%} of chunks'
        _title(axis, name, f'{what}, {row["burst_length"]:g} in a row' if 'burst_length' in row else what)

    return draw


def _schedule(seed: int, name: str, severity: int) -> Callable[[Axes], None]:
    link = open_link(name, severity, seed, 'picture', 2)
    nothing = MapPayload(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))
    for k in range(_MESSAGES):
        link.send(k * _PERIOD, nothing)
    arrivals = {arrival.stamp: arrival.at for arrival in link.receive(10 * _MESSAGES * _PERIOD)}

    def draw(axis: Axes) -> None:
        end, newest = _MESSAGES * _PERIOD / 1e9, -1
        for stamp, at in sorted(arrivals.items(), key=lambda item: item[1]):
            late = stamp < newest
            newest = max(newest, stamp)
            colour = _MOVED if late else _KEPT
            axis.plot(
                [stamp / 1e9, at / 1e9], [1.0, 0.0], color=colour, linewidth=1.2, marker='o', markersize=3
            )
        lost = [k * _PERIOD / 1e9 for k in range(_MESSAGES) if k * _PERIOD not in arrivals]
        axis.plot(lost, [1.0] * len(lost), 'x', color=_LOST, markersize=5, markeredgewidth=1.6)
        axis.text(0.01 * end, 1.1, 'sent', color=_FAINT, fontsize=9)
        axis.text(0.01 * end, -0.2, 'arrived', color=_FAINT, fontsize=9)
        axis.text(end, -0.2, f'{end:g} s', color=_FAINT, fontsize=9, ha='right')
        axis.set_xlim(-0.02 * end, 1.12 * end if name == 'delay' else 1.02 * end)
        axis.set_ylim(-0.35, 1.35)
        row = lookup(name).parameters(severity)
        what = {
            'message_loss': lambda: f'{row["message_loss"]:.0%} of messages',
            'burst_loss': lambda: f'{row["burst_loss"]:.0%}, {row["burst_length"]:g} in a row on average',
            'delay': lambda: (
                f'{row["delay"] * 1e3:.0f} ms, jitter {row["jitter"] * 1e3:.0f} ms; yellow: overtaken'
            ),
        }[name]()
        _title(axis, name, what)

    return draw


def main(arguments: list[str] | None = None) -> None:
    """Draw the picture of the documentation."""
    parser = argparse.ArgumentParser(description='Draw every corruption on a simulated frame.')
    parser.add_argument('out', type=Path, help='picture to write')
    parser.add_argument('--seed', type=int, default=6, help='of the simulated drive')
    options = parser.parse_args(arguments)
    from diffkd_ros.sources.simulator import Simulator, SimulatorConfig

    frame = Simulator(SimulatorConfig(frames_per_scenario=1), options.seed).scenario(0).frame(0)
    draw_corruption_grid(frame).savefig(options.out, dpi=100)


if __name__ == '__main__':
    main()
