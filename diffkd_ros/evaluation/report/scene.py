# SPDX-License-Identifier: Apache-2.0
"""Draws pictures of one fused frame, seen from above.

The large panel shows every agent's points in the agent's colour, the detections against the truth, and which
vehicles only cooperation found. Below it are maps from the network: energy of the restored features, each
agent's share in the fused feature, reliability of the ego.

Matplotlib is imported when something is drawn; pyplot's global state is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.evaluation.report.view import HIT_IOU, FusionView, Outcome
from diffkd_ros.files import whole_file
from diffkd_ros.geometry.boxes import bev_corners

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

_BACKGROUND = '#0b0e14'
PANEL = '#10141d'
_FRAME = '#2a3140'
_TEXT = '#d7dce6'
_FAINT = '#7f8898'
_EGO = '#59c8ff'
_NEIGHBOURS = ('#ff9440', '#c08bff', '#ff7eb6', '#9fb8ff')
_NOT_FUSED = '#5b6474'
_TRUTH = '#f4f6fa'
_IGNORED = '#6b7484'
_HIT = '#3ddc84'
_FALSE_ALARM = '#ff4d5e'
_GAINED = '#ffe53b'
_MISSED_DASH = (0, (2.4, 1.4))
SIGNALS = (_EGO, *_NEIGHBOURS, _TRUTH, _HIT, _GAINED, _FALSE_ALARM)
"""Colours that must survive a reduced palette."""

# Layout in pixels at full size (100 dots per inch); everything scales with the dots per inch.
_WIDTH, _HEIGHT = 1600, 1262
_MAIN = (52, 392, 1524, 762)
_MAP_BOTTOM, _MAP_WIDTH, _MAP_GAP = 40, 484, 36

# The lowest return in a square of this size, in metres, is taken for the local height of the ground.
_GROUND_CELL = 3.2


def rgb(colour: str) -> NDArray[np.float32]:
    """A colour like `#59c8ff` as (3,) in [0, 1]."""
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32) / 255.0


def _colours(view: FusionView) -> dict[int, str]:
    """Colour of each agent: the ego's, then the neighbours' by ascending id; grey if it was not fused."""
    result = {view.ego: _EGO}
    for k, agent in enumerate(sorted(set(view.agents) - {view.ego})):
        result[agent] = _NEIGHBOURS[k % len(_NEIGHBOURS)] if agent in view.fused else _NOT_FUSED
    return result


def _raster(view: FusionView, width: int, height: int) -> NDArray[np.uint8]:
    """All agents' points as an image, row 0 at y_min, in their colours, brighter above the ground."""
    x_min, y_min, x_max, y_max = view.extent
    shape = np.ceil([(y_max - y_min) / _GROUND_CELL, (x_max - x_min) / _GROUND_CELL]).astype(int)
    ground = np.full(shape, np.inf, np.float32)
    shown = {}
    for agent in _colours(view):
        points = view.agents[agent].points
        with np.errstate(invalid='ignore'):
            inside = (points[:, 0] >= x_min) & (points[:, 0] < x_max) & np.isfinite(points[:, 2])
            inside &= (points[:, 1] >= y_min) & (points[:, 1] < y_max)
        x, y, z = points[inside, 0] - x_min, points[inside, 1] - y_min, points[inside, 2]
        place = (y / _GROUND_CELL).astype(int), (x / _GROUND_CELL).astype(int)
        np.minimum.at(ground, place, z)
        shown[agent] = x, y, z, place
    image = np.empty((height, width, 3), np.float32)
    image[:] = rgb(PANEL)
    for agent, colour in _colours(view).items():
        x, y, z, place = shown[agent]
        # Ascending height: of several points in one pixel the highest is written last and stays.
        rising = np.argsort(z)
        row = (y[rising] * (height / (y_max - y_min))).astype(int)
        column = (x[rising] * (width / (x_max - x_min))).astype(int)
        above_ground = (z - ground[place])[rising]
        layer = np.zeros((height, width), np.float32)
        pixel = np.minimum(row, height - 1), np.minimum(column, width - 1)
        layer[pixel] = 0.32 + 0.68 * np.clip((above_ground - 0.25) / 0.5, 0.0, 1.0)
        # One pixel is too thin for a lone return: spread each to the right and upwards, a little fainter.
        layer[:, 1:] = np.maximum(layer[:, 1:], 0.8 * layer[:, :-1])
        layer[1:] = np.maximum(layer[1:], 0.8 * layer[:-1])
        np.maximum(image, layer[..., None] * rgb(colour), out=image)
    return (image * 255.0).astype(np.uint8)


def _shares(view: FusionView) -> NDArray[np.float32]:
    """The gate as an image: the agents' colours mixed by their shares, dark where no agent has a feature."""
    colours = _colours(view)
    palette = np.stack([rgb(colours.get(agent, _NOT_FUSED)) for agent in view.fused])
    mixed = np.clip(np.einsum('nhw,nc->hwc', np.nan_to_num(view.gate), palette), 0.0, 1.0)
    return mixed * np.where((view.energy > 0.0).any(axis=0), 1.0, 0.25)[..., None]


class Picture:
    """A figure whose axes are reused from view to view.

    Args:
        width: pixels.
    """

    def __init__(self, width: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(
            figsize=(_WIDTH / 100.0, _HEIGHT / 100.0), dpi=100.0 * width / _WIDTH, facecolor=_BACKGROUND
        )
        self.canvas = FigureCanvasAgg(self.figure)
        self._main = self._axes(*_MAIN)
        lefts = [_MAIN[0] + k * (_MAP_WIDTH + _MAP_GAP) for k in range(3)]
        self._maps = [self._axes(left, _MAP_BOTTOM, _MAP_WIDTH, _MAP_WIDTH // 2) for left in lefts]
        self._name_map(self._maps[0], 'energy of the restored features', 'inferno', 'low', 'high')
        self._name_map(self._maps[1], 'gate: share of each agent')
        self._name_map(self._maps[2], 'reliability of the ego', 'viridis', '0', '1')
        # The artists of the current view; and reused between views: legend, background pixels, and their key.
        self._drawn: list[Artist] = []
        self._key: Legend | None = None
        self._backdrop: Any = None
        self._looks: tuple | None = None

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes((left / _WIDTH, bottom / _HEIGHT, width / _WIDTH, height / _HEIGHT))
        axes.set_facecolor(PANEL)
        axes.tick_params(colors=_FAINT, labelsize=8.5, length=3, width=0.8)
        for spine in axes.spines.values():
            spine.set_color(_FRAME)
        return axes

    def _name_map(self, axes: Axes, title: str, colours: str = '', low: str = '', high: str = '') -> None:
        """Write the title above a map and, if it has a colour map, its scale at the right."""
        axes.text(0.0, 1.03, title, color=_TEXT, fontsize=10.5, transform=axes.transAxes)
        if colours:
            scale = axes.inset_axes((0.76, 1.045, 0.17, 0.03))
            scale.imshow(np.linspace(0.0, 1.0, 64)[None], cmap=colours, aspect='auto')
            scale.set_axis_off()
            style: dict[str, Any] = {'color': _FAINT, 'fontsize': 8.5, 'va': 'center'}
            style['transform'] = axes.transAxes
            axes.text(0.75, 1.058, low, ha='right', **style)
            axes.text(0.94, 1.058, high, ha='left', **style)

    def pixels(self, view: FusionView) -> NDArray[np.uint8]:
        """The picture of a view, (height, width, 3) uint8; the background is drawn once and reused."""
        self._clear()
        if self._frame(view) or self._backdrop is None:
            self.canvas.draw()
            self._backdrop = self.canvas.copy_from_bbox(self.figure.bbox)
        self._fill(view)
        self.canvas.restore_region(self._backdrop)
        renderer = self.canvas.get_renderer()
        for artist in sorted(self._drawn, key=lambda drawn: drawn.zorder):
            artist.draw(renderer)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()

    def show(self, view: FusionView) -> None:
        """Draw a view in place of the current one."""
        self._clear()
        self._frame(view)
        self._fill(view)

    def _clear(self) -> None:
        for artist in self._drawn:
            artist.remove()
        self._drawn = []

    def _frame(self, view: FusionView) -> bool:
        """Set up axes and legend for a view. Returns whether they changed."""
        looks = (view.extent, view.ego, view.fused, tuple(view.agents))
        if looks == self._looks:
            return False
        self._looks = looks
        x_min, y_min, x_max, y_max = view.extent
        for axes in (self._main, *self._maps):
            axes.set(xlim=(x_min, x_max), ylim=(y_min, y_max), aspect='equal')
            axes.apply_aspect()
        if self._key is not None:
            self._key.remove()
        self._key = self._legend(view)
        return True

    def _fill(self, view: FusionView) -> None:
        outcome = Outcome.of(view)
        self._header(view, outcome)
        self._scene(view)
        self._boxes(outcome)
        self._agents(view)
        energy = np.clip(np.nan_to_num(view.energy.max(axis=0)), 0.0, None)
        energy = np.minimum(energy / max(float(np.percentile(energy, 99.5)), 1e-12), 1.0)
        self._map(self._maps[0], view, energy, 'inferno')
        self._map(self._maps[1], view, _shares(view), None)
        self._map(self._maps[2], view, view.reliability, 'viridis')

    def _write(self, left: float, bottom: float, text: str, size: float, **style: Any) -> None:
        """Write text at a pixel position of the full-size figure; the size is in pixels too."""
        style = {'color': _TEXT, **style}
        self._drawn.append(
            self.figure.text(left / _WIDTH, bottom / _HEIGHT, text, fontsize=0.72 * size, **style)
        )

    def _header(self, view: FusionView, outcome: Outcome) -> None:
        self._write(_MAIN[0], _HEIGHT - 48, view.title, 25, weight='bold')
        self._write(_MAIN[0] + _MAIN[2], _HEIGHT - 48, view.note, 19, ha='right')
        self._write(_MAIN[0], _HEIGHT - 82, outcome.sentence(), 17, color=_FAINT)
        rule = f'hit: IoU ≥ {HIT_IOU:g}   scored: ≥ {view.min_points} returns   axes: metres'
        self._write(_MAIN[0] + _MAIN[2], _HEIGHT - 82, rule, 17, color=_FAINT, ha='right')

    def _scene(self, view: FusionView) -> None:
        window = self._main.get_window_extent()
        raster = _raster(view, max(1, round(window.width)), max(1, round(window.height)))
        x_min, y_min, x_max, y_max = view.extent
        self._drawn.append(
            self._main.imshow(
                raster, origin='lower', extent=(x_min, x_max, y_min, y_max), interpolation='nearest', zorder=0
            )
        )

    def _outlines(self, boxes: NDArray[np.float64], face: str, edge: str, width: float, **style: Any) -> None:
        from matplotlib.collections import PolyCollection

        if len(boxes):
            collection = PolyCollection(
                list(bev_corners(boxes)), facecolors=face, edgecolors=edge, linewidths=width, **style
            )
            self._drawn.append(self._main.add_collection(collection, autolim=False))

    def _noses(self, boxes: NDArray[np.float64], colour: str) -> None:
        """Draw a stroke from the centre through the front of each box."""
        from matplotlib.collections import LineCollection

        heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
        ends = boxes[:, :2] + heading * (0.5 * boxes[:, 3:4] + 0.9)
        strokes = LineCollection(
            list(np.stack([boxes[:, :2], ends], axis=1)), colors=colour, linewidths=1.3, zorder=5
        )
        self._drawn.append(self._main.add_collection(strokes, autolim=False))

    def _boxes(self, outcome: Outcome) -> None:
        found, truth, matching = outcome.detections.boxes, outcome.truth.boxes, outcome.cooperative
        gained = matching.hit.copy()
        gained[matching.hit] = outcome.gained[matching.truth_index[matching.hit]]
        for chosen, colour in (
            (matching.dropped, _IGNORED),
            (matching.hit & ~gained, _HIT),
            (gained, _GAINED),
            (matching.false_alarm, _FALSE_ALARM),
        ):
            self._outlines(found[chosen], colour + '80', colour, 1.4, zorder=3)
            self._noses(found[chosen], colour)
        self._outlines(truth[~matching.counted], 'none', _IGNORED, 1.0, linestyles=':', zorder=4)
        self._outlines(truth[matching.counted], 'none', _TRUTH, 1.1, zorder=4)
        missed = truth[matching.missed]
        missed[:, 3:5] += 1.2
        self._outlines(missed, 'none', _FALSE_ALARM, 1.8, linestyles=[_MISSED_DASH], zorder=6)

    def _agents(self, view: FusionView) -> None:
        from matplotlib.patheffects import withStroke

        x_min, y_min, x_max, y_max = view.extent
        for agent, colour in _colours(view).items():
            x, y = view.agents[agent].position
            if not (x_min <= x < x_max and y_min <= y < y_max):
                continue
            marker = '>' if agent == view.ego else 'o'
            self._drawn += self._main.plot(
                [x],
                [y],
                marker,
                color=colour,
                markersize=11 if agent == view.ego else 8,
                markeredgecolor=_BACKGROUND,
                zorder=7,
            )
            label = 'ego' if agent == view.ego else str(agent)
            # Above the marker, unless it is at the upper edge.
            lift = 11 if y < y_max - 3.0 else -20
            name = self._main.annotate(
                label, (x, y), xytext=(0, lift), textcoords='offset points',
                color=colour, fontsize=10, weight='bold', ha='center', zorder=8, annotation_clip=True,
                path_effects=[withStroke(linewidth=2.5, foreground=_BACKGROUND)],
            )  # fmt: skip
            self._drawn.append(name)

    def _legend(self, view: FusionView) -> Legend:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        def dot(colour: str, label: str) -> Line2D:
            return Line2D([], [], marker='o', linestyle='none', color=colour, markersize=7, label=label)

        def solid(colour: str, label: str) -> Patch:
            return Patch(facecolor=colour + '80', edgecolor=colour, label=label)

        entries: list[Artist] = []
        for agent, colour in _colours(view).items():
            name = f'ego {agent}' if agent == view.ego else f'agent {agent}'
            entries.append(dot(colour, name if agent in view.fused else f'{name} (not fused)'))
        entries += [
            Patch(facecolor='none', edgecolor=_TRUTH, label='truth'),
            Patch(facecolor='none', edgecolor=_IGNORED, linestyle=':', label='truth, not scored'),
            solid(_HIT, 'found'),
            solid(_GAINED, 'found only together'),
            solid(_FALSE_ALARM, 'false alarm'),
            Patch(facecolor='none', edgecolor=_FALSE_ALARM, linestyle=_MISSED_DASH, label='missed'),
        ]
        return self.figure.legend(
            handles=entries, loc='center', ncols=len(entries), frameon=False, labelcolor=_TEXT, fontsize=10.5,
            bbox_to_anchor=(0.5, (_MAIN[1] - 54) / _HEIGHT), handletextpad=0.5, columnspacing=1.6,
        )  # fmt: skip

    def _map(self, axes: Axes, view: FusionView, values: NDArray, colours: str | None) -> None:
        x_min, y_min, x_max, y_max = view.extent
        self._drawn.append(
            axes.imshow(
                values, cmap=colours, vmin=0.0, vmax=1.0, interpolation='nearest',
                origin='lower', extent=(x_min, x_max, y_min, y_max),
            )
        )  # fmt: skip


def draw(view: FusionView, width: int = 1600) -> Figure:
    """Draw one view; the figure is `width` pixels wide."""
    picture = Picture(width)
    picture.show(view)
    return picture.figure


def save_png(view: FusionView, path: Path, width: int = 1600) -> None:
    """Draw one view into a PNG file, `width` pixels wide."""
    with whole_file(path) as unfinished:
        draw(view, width).savefig(unfinished, format='png', facecolor=_BACKGROUND)
