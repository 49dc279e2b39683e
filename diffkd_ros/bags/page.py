# SPDX-License-Identifier: Apache-2.0
"""Writes a recording as one HTML page that needs no other file, no network and no viewer.

The scene is drawn from above in the ego's LiDAR frame. Points are reduced to occupied cells of `CELL` metres
above the ground, at most `MAX_CELLS` per agent and frame, so that 600 frames of 3 agents take a few
megabytes. The drawing code is in `page.html`, the template without data.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.bags.answers import Answer, Layers, Status, read_answers, read_area
from diffkd_ros.errors import DiffkdError
from diffkd_ros.files import write_text
from diffkd_ros.frame import Boxes3D, CoopFrame
from diffkd_ros.geometry.boxes import ground_truth_in, within
from diffkd_ros.geometry.poses import inverse, transform_points
from diffkd_ros.messages.names import agent_name, degradation_name
from diffkd_ros.metrics.average_precision import match
from diffkd_ros.runtime.link.maps import TileState
from diffkd_ros.sources.dataset import DatasetError
from diffkd_ros.sources.rosbag import RosbagDataset

MAX_FRAMES = 600
MAX_CELLS = 1500
CELL = 0.2
# x_min, y_min, x_max, y_max, metres.
EXTENT = (-60.0, -36.0, 60.0, 36.0)
_COLUMNS = round((EXTENT[2] - EXTENT[0]) / CELL)
_ROWS = round((EXTENT[3] - EXTENT[1]) / CELL)
# The lowest return in a square of this size, metres, is taken for the ground; returns less than `_GROUND`
# above it are not drawn.
_GROUND_CELL = 4.0
_GROUND = 0.3
# As in the pictures of an evaluation: boxes of lower scores count in the average precision only.
_SHOWN_SCORE = 0.3
_IOU = 0.5
_MIN_POINTS = 5


def write_page(
    paths: Sequence[Path],
    out: Path,
    frames: int = MAX_FRAMES,
    topics: Sequence[str] = (),
    base_to_lidar: Sequence[str] = (),
    on_frame: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[int, int]:
    """Write the page of a recording.

    Args:
        paths: bags, read as one, with clouds and poses and, if recorded, ground truth, detections and fusion
            status.
        out: the HTML file.
        frames: at most so many, evenly spaced; broken ones are left out.
        topics: as of `RosbagDataset`.
        base_to_lidar: as of `RosbagDataset`.
        on_frame: called with the number of frames done and the number of all.

    Returns:
        Number of frames shown, and of those shown with recorded detections.

    Raises:
        DatasetError: if a bag cannot be read, or holds no frame that can be read.
        DiffkdError: if the file cannot be written.
    """
    dataset = RosbagDataset(paths, topics=topics, base_to_lidar=base_to_lidar)
    answers, area = read_answers(paths, dataset.ego), read_area(paths)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).round().astype(int))
    shown: list[dict[str, Any]] = []
    first_error: DiffkdError | None = None
    for done, index in enumerate(chosen.tolist(), start=1):
        try:
            frame = dataset[index]
        except DiffkdError as error:
            first_error = first_error or error
            continue
        shown.append(_shown(frame, answers.get(frame.stamp), area or EXTENT))
        on_frame(done, len(chosen))
    if not shown:
        raise DatasetError(f'{dataset.root} has no frame that can be read; the first: {first_error}')
    title = dataset.root.resolve().name
    content = {
        'title': title,
        'ego': agent_name(dataset.ego),
        'agents': [agent_name(agent) for agent in dataset.agents],
        'extent': EXTENT,
        'area': area,
        'cell': CELL,
        'columns': _COLUMNS,
        'iou': _IOU,
        'frames': shown,
    }
    # Recorded text must not close the script element or open a comment.
    data = json.dumps(content, separators=(',', ':'), allow_nan=False).replace('<', r'\u003c')
    template = files('diffkd_ros.bags').joinpath('page.html').read_text(encoding='utf-8')
    text = template.replace('@TITLE@', escape(title)).replace('@DATA@', data)
    write_text(out, text)
    return len(shown), sum(entry['answered'] for entry in shown)


def _shown(
    frame: CoopFrame, answer: Answer | None, area: tuple[float, float, float, float]
) -> dict[str, Any]:
    """A frame for the template; boxes are x, y, length, width, yaw and a state.

    Args:
        frame: the frame.
        answer: recorded detections and fusion status of the ego, or None.
        area: x_min, y_min, x_max, y_max in which a vehicle can be detected.
    """
    to_ego = inverse(frame.agents[frame.ego].pose)
    cells, places, headings = {}, {}, {}
    for agent, sweep in frame.agents.items():
        pose = to_ego @ sweep.pose
        cells[agent_name(agent)] = _cells(transform_points(pose, sweep.points))
        places[agent_name(agent)] = [round(float(v), 2) for v in pose[:2, 3]]
        headings[agent_name(agent)] = round(math.atan2(pose[1, 0], pose[0, 0]), 3)
    truth = within(ground_truth_in(frame, frame.ego), *EXTENT) if frame.ground_truth is not None else None
    found = within(answer.detections, *EXTENT) if answer else Boxes3D.empty()
    if found.scores is not None:
        found = found[found.scores >= _SHOWN_SCORE]
    return {
        'stamp': frame.stamp / 1e9,
        'scenario': frame.scenario,
        'answered': answer is not None,
        'points': cells,
        'places': places,
        'headings': headings,
        **_boxes(found, truth, area),
        **_status(answer),
    }


def _boxes(found: Boxes3D, truth: Boxes3D | None, area: tuple[float, float, float, float]) -> dict[str, Any]:
    hit = np.full(len(found), -1)
    met: set[int] = set()
    if truth is not None:
        matching = match(found, truth, _IOU, _MIN_POINTS)
        # 1 hit, 0 false alarm, -1 on an ignored ground truth.
        hit = np.where(matching.dropped, -1, matching.truth_index >= 0)
        met = set(matching.truth_index.tolist())
    scores = np.zeros(len(found)) if found.scores is None else found.scores
    truths: list[list[Any]] = []
    if truth is not None:
        points = np.full(len(truth), _MIN_POINTS) if truth.num_points is None else truth.num_points
        for row, (box, count) in enumerate(zip(truth.boxes, points, strict=True)):
            inside = area[0] <= box[0] < area[2] and area[1] <= box[1] < area[3]
            # 1 found, 0 missed, -1 out of reach or with too few returns.
            truths.append([*_flat(box), 1 if row in met else 0 if inside and count >= _MIN_POINTS else -1])
    return {
        'detections': [
            [*_flat(box), int(state), round(float(score), 2)]
            for box, state, score in zip(found.boxes, hit, scores, strict=True)
        ],
        'truth': truths if truth is not None else None,
    }


def _flat(box: NDArray[np.float64]) -> list[float]:
    return [round(float(box[column]), 2) for column in (0, 1, 3, 4)] + [round(float(box[6]), 3)]


def _status(answer: Answer | None) -> dict[str, Any]:
    status = answer.status if answer else None
    if status is None or not _is_finite(status):
        return {'neighbours': {}, 'reliability': None, 'stages': {}, 'degradation': None}
    neighbours = {
        neighbour.agent: {
            'weight': round(neighbour.gate_weight, 3),
            'accepted': neighbour.accepted,
            'reason': neighbour.reason,
            'age': round(neighbour.age, 3),
            'kilobytes': round(neighbour.bytes / 1e3, 1),
            **_layers(neighbour.layers),
        }
        for neighbour in status.neighbours
    }
    return {
        'neighbours': neighbours,
        'reliability': round(status.reliability, 3),
        'stages': {name: round(milliseconds, 1) for name, milliseconds in status.stages.items()},
        'degradation': _degradation(status),
    }


def _degradation(status: Status) -> str | None:
    level = status.degradation
    if level is None:
        return None
    name = degradation_name(level)
    return f'{name}: {status.cause}' if status.cause else name


def _layers(layers: Layers | None) -> dict[str, Any]:
    """What arrived of a layered message; four tiles a byte, the first in its lowest bits, as base64."""
    if layers is None:
        return {}
    rows, columns = layers.tiles.shape
    states = np.full(-(-rows * columns // 4) * 4, TileState.EMPTY, np.uint8)
    states[: rows * columns] = layers.tiles.ravel()
    packed = (states.reshape(-1, 4) << np.array([0, 2, 4, 6], np.uint8)).sum(axis=1).astype(np.uint8)
    kilobytes = {layer: round(size / 1e3, 2) for layer, size in layers.bytes_of.items()}
    return {
        'layers': {
            'chunks': [layers.chunks, layers.announced],
            'kilobytes': kilobytes,
            'restored': round(layers.restored, 3),
            'columns': columns,
            'tiles': base64.b64encode(packed.tobytes()).decode(),
        }
    }


def _is_finite(status: Status) -> bool:
    of_neighbours = [figure for n in status.neighbours for figure in (n.age, n.gate_weight)]
    return bool(np.isfinite([status.reliability, *status.stages.values(), *of_neighbours]).all())


def _cells(points: NDArray[np.float32]) -> str:
    """Occupied cells as base64 of the differences of their sorted numbers, as little-endian base-128 varints.

    Args:
        points: (n, 3 or more) x, y, z in the ego's LiDAR frame.
    """
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    inside = (x >= EXTENT[0]) & (x < EXTENT[2]) & (y >= EXTENT[1]) & (y < EXTENT[3])
    x, y, z = x[inside], y[inside], z[inside]
    width = round((EXTENT[2] - EXTENT[0]) / _GROUND_CELL)
    square = ((y - EXTENT[1]) // _GROUND_CELL * width + (x - EXTENT[0]) // _GROUND_CELL).astype(np.int64)
    lowest = np.full(square.max(initial=0) + 1, np.inf)
    np.minimum.at(lowest, square, z)
    above = z > lowest[square] + _GROUND
    column = ((x[above] - EXTENT[0]) / CELL).astype(np.int64).clip(0, _COLUMNS - 1)
    row = ((y[above] - EXTENT[1]) / CELL).astype(np.int64).clip(0, _ROWS - 1)
    cells = np.unique(row * _COLUMNS + column)
    if len(cells) > MAX_CELLS:
        cells = cells[np.linspace(0, len(cells) - 1, MAX_CELLS).astype(int)]
    packed = bytearray()
    for step in np.diff(cells, prepend=0).tolist():
        while step >= 128:
            packed.append(step & 127 | 128)
            step >>= 7
        packed.append(step)
    return base64.b64encode(packed).decode()
