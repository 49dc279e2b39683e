# SPDX-License-Identifier: Apache-2.0
"""Pictures of one fused frame, seen from above: what was sensed, restored, weighed and found.

The large panel shows every agent's points in the agent's colour, the detections against the truth, and which
vehicles only cooperation found. Below it lie the maps inside the network: energy of the restored features,
each agent's share in the fused feature, the ego's reliability.

Matplotlib and Pillow are imported when something is drawn, not before: scoring does not need them. Nothing
here touches pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import bev_corners, ground_truth_in, within
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.metrics.average_precision import Matching, match

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from PIL.Image import Image

_BACKGROUND = '#0b0e14'
_PANEL = '#10141d'
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

# Layout in pixels at full size (100 dots per inch); everything scales with the dots per inch.
_WIDTH, _HEIGHT = 1600, 1262
_MAIN = (52, 392, 1524, 762)
_MAP_BOTTOM, _MAP_WIDTH, _MAP_GAP = 40, 484, 36

# The lowest return within this many metres stands for the ground, which need not be level.
_GROUND_CELL = 3.2


class RenderError(DiffkdError):
    """A view whose parts do not fit together."""


class DrawingUnavailableError(DiffkdError):
    """The libraries that draw are not installed."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent as the ego sees it.

    Attributes:
        points: (n, 3 or more) x, y, z in the **ego's** LiDAR frame, metres.
        position: x, y of the agent's LiDAR in the ego's LiDAR frame.
    """

    points: NDArray[np.float32]
    position: tuple[float, float]


@dataclass(frozen=True, slots=True)
class FusionView:
    """All that one picture shows; every coordinate in the ego's LiDAR frame.

    Maps have row 0 at y_min and column 0 at x_min.

    Attributes:
        extent: x_min, y_min, x_max, y_max of the maps and the picture, metres.
        ego: id of the ego, a key of `agents`.
        agents: all agents with points to show, fused or not.
        fused: ids whose features were fused, the ego first: the order of `gate`.
        detections: of the cooperative detector, with scores.
        ego_only: of the ego alone on the same sweep, with scores.
        truth: with `num_points` where known.
        energy: (agents, height, width) float32 >= 0; how strong each agent's restored feature is, ordered as
            `gate`, 0 where an agent has none. Drawn is the strongest in each cell, relative to the frame's
            99.5th percentile.
        gate: (agents, height, width) float32 in [0, 1]; each agent's share of the fused feature.
        reliability: (height, width) float32 in [0, 1]; the ego's reliability.
        title: what the frame is, at the top left.
        note: figures of the run, at the top right; may be empty.
        iou_threshold: overlap that makes a hit.
        min_points: truths with fewer returns are ignored, as in the score.
    """

    extent: tuple[float, float, float, float]
    ego: int
    agents: Mapping[int, AgentView]
    fused: tuple[int, ...]
    detections: Boxes3D
    ego_only: Boxes3D
    truth: Boxes3D
    energy: NDArray[np.float32]
    gate: NDArray[np.float32]
    reliability: NDArray[np.float32]
    title: str
    note: str = ''
    iou_threshold: float = 0.5
    min_points: int = 5

    def __post_init__(self) -> None:
        x_min, y_min, x_max, y_max = self.extent
        if not (x_min < x_max and y_min < y_max):
            raise RenderError(f'extent must be x_min, y_min, x_max, y_max with min < max, got {self.extent}')
        if self.ego not in self.agents or self.fused[:1] != (self.ego,):
            raise RenderError(f'ego {self.ego} must be in {sorted(self.agents)} and first in {self.fused}')
        maps = (len(self.fused), *self.reliability.shape)
        if self.reliability.ndim != 2 or self.energy.shape != maps or self.gate.shape != maps:
            raise RenderError(
                f'reliability must be (height, width), energy and gate ({len(self.fused)}, height, width); '
                f'got {self.reliability.shape}, {self.energy.shape} and {self.gate.shape}'
            )

    @classmethod
    def of_frame(
        cls,
        frame: CoopFrame,
        extent: tuple[float, float, float, float],
        fused: tuple[int, ...],
        detections: Boxes3D,
        ego_only: Boxes3D,
        energy: NDArray[np.float32],
        gate: NDArray[np.float32],
        reliability: NDArray[np.float32],
        note: str = '',
    ) -> FusionView:
        """A view of a frame that carries ground truth; the other arguments are as in the class.

        Raises:
            FrameError: if the frame has no ground truth.
            RenderError: if the maps do not fit `fused`.
        """
        from_map = inverse(frame.agents[frame.ego].pose)
        agents = {}
        for agent, sweep in frame.agents.items():
            pose = from_map @ sweep.pose
            agents[agent] = AgentView(
                transform_points(pose, sweep.points), (float(pose[0, 3]), float(pose[1, 3]))
            )
        title = f'{frame.scenario}  frame {frame.index}' if frame.scenario else f'frame {frame.index}'
        truth = ground_truth_in(frame, frame.ego)
        return cls(
            extent,
            frame.ego,
            agents,
            fused,
            detections,
            ego_only,
            truth,
            energy,
            gate,
            reliability,
            title,
            note,
        )

    def colours(self) -> dict[int, str]:
        """One colour an agent: the ego's, then the neighbours' by ascending id; grey if it was not fused."""
        result = {self.ego: _EGO}
        for k, agent in enumerate(sorted(set(self.agents) - {self.ego})):
            result[agent] = _NEIGHBOURS[k % len(_NEIGHBOURS)] if agent in self.fused else _NOT_FUSED
        return result


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Detections and truth within the picture, and what became of them."""

    detections: Boxes3D
    truth: Boxes3D
    cooperative: Matching
    alone: Matching

    @classmethod
    def of(cls, view: FusionView) -> _Outcome:
        detections = within(view.detections, *view.extent)
        truth = within(view.truth, *view.extent)
        alone = within(view.ego_only, *view.extent)
        settings = (view.iou_threshold, view.min_points)
        return cls(detections, truth, match(detections, truth, *settings), match(alone, truth, *settings))

    @property
    def gained(self) -> NDArray[np.bool_]:
        """(n_truths,) bool; found by cooperation, missed by the ego alone."""
        return self.alone.missed & ~self.cooperative.missed

    def sentence(self) -> str:
        counted = int(self.cooperative.counted.sum())
        found, alone = (counted - int(m.missed.sum()) for m in (self.cooperative, self.alone))
        false, false_alone = (int(m.false_alarm.sum()) for m in (self.cooperative, self.alone))
        lost = int((self.cooperative.missed & ~self.alone.missed).sum())
        return (
            f'{counted} vehicles:  {found} found together, {alone} by the ego alone   '
            f'({int(self.gained.sum())} gained, {lost} lost)     '
            f'false alarms:  {false} together, {false_alone} alone'
        )


def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)], np.float32) / 255.0


def _raster(view: FusionView, width: int, height: int) -> NDArray[np.uint8]:
    """All agents' points as an image, row 0 at y_min, in their colours, brighter above the ground."""
    x_min, y_min, x_max, y_max = view.extent
    shape = np.ceil([(y_max - y_min) / _GROUND_CELL, (x_max - x_min) / _GROUND_CELL]).astype(int)
    ground = np.full(shape, np.inf, np.float32)
    shown = {}
    for agent in view.colours():
        points = view.agents[agent].points
        with np.errstate(invalid='ignore'):
            inside = (points[:, 0] >= x_min) & (points[:, 0] < x_max) & np.isfinite(points[:, 2])
            inside &= (points[:, 1] >= y_min) & (points[:, 1] < y_max)
        x, y, z = points[inside, 0] - x_min, points[inside, 1] - y_min, points[inside, 2]
        place = (y / _GROUND_CELL).astype(int), (x / _GROUND_CELL).astype(int)
        np.minimum.at(ground, place, z)
        shown[agent] = x, y, z, place
    image = np.empty((height, width, 3), np.float32)
    image[:] = _rgb(_PANEL)
    for agent, colour in view.colours().items():
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
        np.maximum(image, layer[..., None] * _rgb(colour), out=image)
    return (image * 255.0).astype(np.uint8)


def _shares(view: FusionView) -> NDArray[np.float32]:
    """The gate as an image: the agents' colours mixed by their shares, dim where no agent has a feature."""
    colours = view.colours()
    palette = np.stack([_rgb(colours.get(agent, _NOT_FUSED)) for agent in view.fused])
    mixed = np.clip(np.einsum('nhw,nc->hwc', np.nan_to_num(view.gate), palette), 0.0, 1.0)
    return mixed * np.where((view.energy > 0.0).any(axis=0), 1.0, 0.25)[..., None]


class _Picture:
    """A figure whose axes stay from view to view; `show` replaces what is drawn in them."""

    def __init__(self, width: int) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise DrawingUnavailableError(
                f'drawing needs {error.name}, which is not installed: pip install "diffkd_ros[report]"'
            ) from error
        self.figure = Figure(
            figsize=(_WIDTH / 100.0, _HEIGHT / 100.0), dpi=100.0 * width / _WIDTH, facecolor=_BACKGROUND
        )
        self.canvas = FigureCanvasAgg(self.figure)
        self._main = self._axes(*_MAIN)
        lefts = [_MAIN[0] + k * (_MAP_WIDTH + _MAP_GAP) for k in range(3)]
        self._maps = [self._axes(left, _MAP_BOTTOM, _MAP_WIDTH, _MAP_WIDTH // 2) for left in lefts]
        self._name_map(self._maps[0], 'energy of the restored features', 'inferno', 'low', 'high')
        self._name_map(self._maps[1], 'gate: shares in the colours of the agents')
        self._name_map(self._maps[2], 'reliability of the ego', 'viridis', '0', '1')
        # Drawn for the view shown; kept from view to view: legend, pixels behind, what both depend on.
        self._drawn: list[Artist] = []
        self._key: Legend | None = None
        self._backdrop: Any = None
        self._looks: tuple | None = None

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes((left / _WIDTH, bottom / _HEIGHT, width / _WIDTH, height / _HEIGHT))
        axes.set_facecolor(_PANEL)
        axes.tick_params(colors=_FAINT, labelsize=8.5, length=3, width=0.8)
        for spine in axes.spines.values():
            spine.set_color(_FRAME)
        return axes

    def _name_map(self, axes: Axes, title: str, colours: str = '', low: str = '', high: str = '') -> None:
        """Write the title above a map and, if its colours stand for numbers, their scale at the right."""
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
        """The picture of a view, (height, width, 3); what does not change is drawn once and kept."""
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
        """Replace the content of the figure by a view."""
        self._clear()
        self._frame(view)
        self._fill(view)

    def _clear(self) -> None:
        for artist in self._drawn:
            artist.remove()
        self._drawn = []

    def _frame(self, view: FusionView) -> bool:
        """Set up axes and legend for a view; returns whether they had to change."""
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
        outcome = _Outcome.of(view)
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
        """Put text at a pixel position of the full-size figure; size in pixels, too."""
        style = {'color': _TEXT, **style}
        self._drawn.append(
            self.figure.text(left / _WIDTH, bottom / _HEIGHT, text, fontsize=0.72 * size, **style)
        )

    def _header(self, view: FusionView, outcome: _Outcome) -> None:
        self._write(_MAIN[0], _HEIGHT - 48, view.title, 25, weight='bold')
        self._write(_MAIN[0] + _MAIN[2], _HEIGHT - 48, view.note, 19, ha='right')
        self._write(_MAIN[0], _HEIGHT - 82, outcome.sentence(), 17, color=_FAINT)
        rule = f'hit: IoU ≥ {view.iou_threshold:g}   scored: ≥ {view.min_points} returns   axes: metres'
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
        """A stroke from the centre through the front of each box."""
        from matplotlib.collections import LineCollection

        heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
        ends = boxes[:, :2] + heading * (0.5 * boxes[:, 3:4] + 0.9)
        strokes = LineCollection(
            list(np.stack([boxes[:, :2], ends], axis=1)), colors=colour, linewidths=1.3, zorder=5
        )
        self._drawn.append(self._main.add_collection(strokes, autolim=False))

    def _boxes(self, outcome: _Outcome) -> None:
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
        for agent, colour in view.colours().items():
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
            # Above the marker, unless the picture ends there.
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
        for agent, colour in view.colours().items():
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
    """Draw one view; the figure is `width` pixels wide.

    Raises:
        DrawingUnavailableError: if Matplotlib is not installed.
    """
    picture = _Picture(width)
    picture.show(view)
    return picture.figure


def save_png(view: FusionView, path: Path, width: int = 1600) -> None:
    """Draw one view into a PNG file, `width` pixels wide. Raises as `draw` does."""
    draw(view, width).savefig(path, format='png', facecolor=_BACKGROUND)


def save_animation(
    views: Iterable[FusionView], path: Path, fps: float = 5.0, width: int = 960, max_bytes: int = 6_000_000
) -> None:
    """Draw views into a GIF that plays for ever.

    All frames share one palette; if the file would be larger than `max_bytes`, the frames are made smaller
    until it fits.

    Args:
        views: at least one; taken one at a time.
        path: the file to write.
        fps: frames a second.
        width: of the frames at first, pixels.
        max_bytes: limit for the file.

    Raises:
        RenderError: if there are no views.
        DrawingUnavailableError: if Matplotlib, which brings Pillow, is not installed.
    """
    picture = _Picture(width)

    from PIL import Image

    frames = [Image.fromarray(picture.pixels(view)) for view in views]
    if not frames:
        raise RenderError('an animation needs at least one view')
    while True:
        data = _gif(frames, fps)
        if len(data) <= max_bytes or frames[0].width <= 320:
            break
        scale = max(0.6, 0.95 * (max_bytes / len(data)) ** 0.5)
        size = (round(frames[0].width * scale), round(frames[0].height * scale))
        frames = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames]
    path.write_bytes(data)


def _gif(frames: list[Image], fps: float) -> bytes:
    from PIL import Image

    # One palette for all, or colours would flicker: from a few frames, and from the signal colours, so that
    # those which are rare or come late are not lost.
    samples = frames[:: max(1, len(frames) // 6)][:6]
    width, height = frames[0].size
    sheet = Image.new('RGB', (width, height * (len(samples) + 1)), _PANEL)
    for k, sample in enumerate(samples):
        sheet.paste(sample, (0, (k + 1) * height))
    signals = (_EGO, *_NEIGHBOURS, _TRUTH, _HIT, _GAINED, _FALSE_ALARM)
    for k, colour in enumerate(signals):
        for half, shade in enumerate((_rgb(colour), 0.5 * (_rgb(colour) + _rgb(_PANEL)))):
            red, green, blue = (int(255 * part) for part in shade)
            left, top = k * width // len(signals), half * height // 4
            sheet.paste((red, green, blue), (left, top, left + width // len(signals), top + height // 4))
    palette = sheet.quantize(128)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = BytesIO()
    indexed[0].save(
        buffer, format='GIF', save_all=True, append_images=indexed[1:], duration=round(1000.0 / fps), loop=0
    )
    return buffer.getvalue()
