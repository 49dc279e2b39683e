# SPDX-License-Identifier: Apache-2.0
"""Results of scored frames as tables, from which every figure is computed without matching again.

`scoring.score_frame` makes the table of one frame. Tables are joined, saved and loaded; average precision,
breakdowns, calibration and confidence intervals are sums over their columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.files import whole_file
from diffkd_ros.metrics.average_precision import DetectionOrder, EvaluationError, average_precision

# Values in `Detections.found` of a detection that found no truth.
FALSE_ALARM = -1
DROPPED = -2

# A box is on observed ground if a return lies within this distance of its outline seen from above, in metres:
# half of the 0.8 m cell in which the shipped model pools its returns.
OBSERVED_MARGIN = 0.4

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Detections:
    """Columns over the detections, frame after frame, by descending score within each.

    Attributes:
        frame: (n,) int32 row of the frame.
        score: (n,) float32.
        distance: (n,) float32 metres from the ego's LiDAR to the centre, seen from above.
        returns_ego: (n,) int32 returns of the ego within the box.
        returns_others: (n,) int32 returns of all other agents within the box.
        returns_near: (n,) int32 returns of any agent, at any height, on the box or within `OBSERVED_MARGIN`.
        found: (thresholds, n) int32 row of the truth found, `FALSE_ALARM`, or `DROPPED` for a detection on an
            ignored truth.
        iou: (thresholds, n) float32 overlap with the truth found, 0 where none was.
    """

    frame: NDArray[np.int32]
    score: NDArray[np.float32]
    distance: NDArray[np.float32]
    returns_ego: NDArray[np.int32]
    returns_others: NDArray[np.int32]
    returns_near: NDArray[np.int32]
    found: NDArray[np.int32]
    iou: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Truths:
    """Columns over the truths, frame after frame.

    Attributes:
        frame: (m,) int32 row of the frame.
        counted: (m,) bool; False for ignored truths.
        distance: (m,) float32 metres from the ego's LiDAR to the centre, seen from above.
        returns_ego: (m,) int32 returns of the ego within the box.
        returns_others: (m,) int32 returns of all other agents within the box.
    """

    frame: NDArray[np.int32]
    counted: NDArray[np.bool_]
    distance: NDArray[np.float32]
    returns_ego: NDArray[np.int32]
    returns_others: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Inference:
    """Columns over the frames: figures of the inference, NaN where unknown or not applicable.

    Attributes:
        reliability: (frames,) float32 mean reliability of the ego over the cells that any agent observed.
        gate_ego: (frames,) float32 mean weight of the ego in the fusion, over the cells it covers.
        gate_neighbours: (frames,) float32 likewise of the neighbours fused, the mean over them.
        messages: (frames,) int32 messages that neighbours sent, arrived or not.
        sent_bytes: (frames,) int64 total size of those messages.
        encode_ms: (frames,) float32 milliseconds from the ego's points to its feature map.
        fuse_ms: (frames,) float32 milliseconds from the feature maps to boxes.
    """

    reliability: NDArray[np.float32]
    gate_ego: NDArray[np.float32]
    gate_neighbours: NDArray[np.float32]
    messages: NDArray[np.int32]
    sent_bytes: NDArray[np.int64]
    encode_ms: NDArray[np.float32]
    fuse_ms: NDArray[np.float32]

    @classmethod
    def of_frame(
        cls,
        reliability: float = float('nan'),
        gate_ego: float = float('nan'),
        gate_neighbours: float = float('nan'),
        messages: int = 0,
        sent_bytes: int = 0,
        encode_ms: float = float('nan'),
        fuse_ms: float = float('nan'),
    ) -> Inference:
        """The row of a single frame; all unknown by default."""

        def column(value: float) -> NDArray[np.float32]:
            return np.array([value], np.float32)

        return cls(
            column(reliability),
            column(gate_ego),
            column(gate_neighbours),
            np.array([messages], np.int32),
            np.array([sent_bytes], np.int64),
            column(encode_ms),
            column(fuse_ms),
        )


_TABLES: dict[str, Any] = {'detections': Detections, 'truths': Truths, 'inference': Inference}


def _columns(table: Detections | Truths | Inference) -> dict[str, NDArray]:
    return {field.name: getattr(table, field.name) for field in fields(table)}


@dataclass(frozen=True, slots=True)
class FrameResults:
    """The results of one or many frames under one protocol.

    Attributes:
        protocol: its name.
        thresholds: IoU thresholds of the rows of `detections.found`; the first is `ANY_OVERLAP`.
        scenario: (frames,) names.
        index: (frames,) int64 position of each frame within its scenario.
        detections: of all frames.
        truths: of all frames.
        inference: of all frames.

    Raises:
        EvaluationError: if the columns do not fit together.
    """

    protocol: str
    thresholds: tuple[float, ...]
    scenario: NDArray[np.str_]
    index: NDArray[np.int64]
    detections: Detections
    truths: Truths
    inference: Inference

    def __post_init__(self) -> None:
        frames, detections, truths = len(self.index), self.detections.frame, self.truths.frame
        expected = {'scenario': (self.scenario, (frames,)), 'index': (self.index, (frames,))}
        for name, column in _columns(self.detections).items():
            rows = (len(self.thresholds),) if name in ('found', 'iou') else ()
            expected[f'detections.{name}'] = column, (*rows, len(detections))
        for name, column in _columns(self.truths).items():
            expected[f'truths.{name}'] = column, (len(truths),)
        for name, column in _columns(self.inference).items():
            expected[f'inference.{name}'] = column, (frames,)
        for name, (column, shape) in expected.items():
            if column.shape != shape:
                raise EvaluationError(f'results: {name} must be {shape}, got {column.shape}')
        for name, frame in (('detections', detections), ('truths', truths)):
            if len(frame) and (frame[0] < 0 or frame[-1] >= frames or (np.diff(frame) < 0).any()):
                raise EvaluationError(f'results: {name} are not in the order of the {frames} frames')
        found = self.detections.found
        if found.size and (found.min() < DROPPED or found.max() >= len(truths)):
            raise EvaluationError(f'results: `found` refers to a truth beyond the {len(truths)} truths')

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.index)

    @property
    def scenarios(self) -> list[str]:
        """The scenarios, in the order of their first frames."""
        return list(dict.fromkeys(self.scenario.tolist()))

    @property
    def counted_truths(self) -> int:
        """Number of truths that count."""
        return int(self.truths.counted.sum())

    def row(self, iou_threshold: float) -> int:
        """Row of `detections.found` for a threshold.

        Raises:
            EvaluationError: if the frames were not scored at it.
        """
        if iou_threshold not in self.thresholds:
            raise EvaluationError(f'scored at IoU {list(self.thresholds)}, not at {iou_threshold}')
        return self.thresholds.index(iou_threshold)

    def found(self, iou_threshold: float) -> NDArray[np.int32]:
        """(n,) row of the truth that each detection found at a threshold; see `Detections.found`."""
        return self.detections.found[self.row(iou_threshold)]

    def average_precision(self, iou_threshold: float, order: DetectionOrder = DetectionOrder.GLOBAL) -> float:
        """AP in [0, 1] over all frames, NaN without a truth that counts."""
        found = self.found(iou_threshold)
        judged = found != DROPPED
        hits = found[judged] >= 0
        return average_precision(self.detections.score[judged], hits, self.counted_truths, order)

    def hits_by_frame(self, iou_threshold: float) -> NDArray[np.int64]:
        """(frames,) number of truths found in each frame."""
        return np.bincount(self.detections.frame[self.found(iou_threshold) >= 0], minlength=len(self))

    def save(self, path: Path) -> None:
        """Write a compressed `.npz` file.

        Raises:
            DiffkdError: if it cannot be written.
        """
        columns: dict[str, Any] = {
            'format': np.array(_FORMAT),
            'protocol': np.array(self.protocol),
            'thresholds': np.array(self.thresholds),
            'scenario': self.scenario,
            'index': self.index,
            **{
                f'{table}.{name}': column
                for table in _TABLES
                for name, column in _columns(getattr(self, table)).items()
            },
        }
        # A file object, since NumPy would add `.npz` to the name.
        with whole_file(path) as unfinished, unfinished.open('wb') as file:
            np.savez_compressed(file, **columns)

    @classmethod
    def load(cls, path: Path) -> FrameResults:
        """Read what `save` wrote.

        Raises:
            EvaluationError: if the file is missing, damaged, or of another format.
        """
        columns = _read(path)
        if (found := str(columns.get('format'))) != str(_FORMAT):
            raise EvaluationError(f'{path}: results of format {found:.80}, expected {_FORMAT}')
        try:
            return cls(
                str(columns['protocol']),
                tuple(columns['thresholds'].tolist()),
                columns['scenario'],
                columns['index'],
                *(
                    table(**{field.name: columns[f'{name}.{field.name}'] for field in fields(table)})
                    for name, table in _TABLES.items()
                ),
            )
        except (KeyError, TypeError, AttributeError, EvaluationError) as error:
            raise EvaluationError(f'{path}: damaged: {error}') from error


def _read(path: Path) -> dict[str, NDArray]:
    """The arrays of an `.npz` file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # whatever the bytes lead to
        raise EvaluationError(f'{path}: not a file of results: {error}') from error


def join(results: Sequence[FrameResults]) -> FrameResults:
    """Concatenate the frames of several results.

    Raises:
        EvaluationError: if `results` is empty, or they were scored by different protocols.
    """
    if not results:
        raise EvaluationError('there are no results to join')
    first = results[0]
    for other in results:
        if (other.protocol, other.thresholds) != (first.protocol, first.thresholds):
            raise EvaluationError(
                f'results of protocol {first.protocol!r} at IoU {list(first.thresholds)} cannot be joined '
                f'with {other.protocol!r} at {list(other.thresholds)}'
            )
    frames = np.cumsum([0, *(len(part) for part in results)])
    rows = np.cumsum([0, *(len(part.truths.frame) for part in results)])
    detections, truths = [], []
    for part, frame_offset, truth_offset in zip(results, frames[:-1], rows[:-1], strict=True):
        found = part.detections.found
        moved = {
            'frame': part.detections.frame + np.int32(frame_offset),
            'found': np.where(found >= 0, found + np.int32(truth_offset), found),
        }
        detections.append({**_columns(part.detections), **moved})
        truths.append({**_columns(part.truths), 'frame': part.truths.frame + np.int32(frame_offset)})
    inference = [_columns(part.inference) for part in results]
    return FrameResults(
        first.protocol,
        first.thresholds,
        np.concatenate([part.scenario for part in results]),
        np.concatenate([part.index for part in results]),
        Detections(**{k: np.concatenate([d[k] for d in detections], axis=-1) for k in detections[0]}),
        Truths(**{k: np.concatenate([t[k] for t in truths]) for k in truths[0]}),
        Inference(**{k: np.concatenate([i[k] for i in inference]) for k in inference[0]}),
    )
