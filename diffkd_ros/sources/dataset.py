# SPDX-License-Identifier: Apache-2.0
"""What every recorded data set offers, and how a broken frame is handled: it is logged and left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import AgentSweep, CoopFrame, FrameError
from diffkd_ros.geometry.boxes import bev_corners, count_points
from diffkd_ros.geometry.poses import transform_points

Frame = TypeVar('Frame')
NO_SIZE = 'an object without a size'
"""Reason why an object is left out."""
_LOG = logging.getLogger(__name__)
# Reasons listed in an account.
_LINES = 20


class DatasetError(DiffkdError):
    """A source that cannot be opened, or a file that does not follow its format; the message names it."""


class FrameDataset(Protocol):
    """A data set on disk. Its folders are listed when it is opened; files are read with each frame."""

    root: Path

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> CoopFrame:
        """Read a frame.

        Raises:
            IndexError: if there is no such frame.
            DatasetError: if one of its files is missing or damaged.
        """

    def scenarios(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each scenario, in order; reads no file."""

    def files(self, rows: range) -> set[Path]:
        """Resolved paths of files that identify these frames; reads no file."""

    def problems(self, index: int) -> list[DatasetError]:
        """Everything that is wrong with a frame's files."""

    def strays(self) -> Iterable[DatasetError]:
        """What is wrong with the set as a whole, such as files that belong to no frame although their names
        suggest it.
        """


@contextmanager
def located(where: object) -> Iterator[None]:
    """Raise any error, whatever the bytes of a file lead to, as a `DatasetError` that starts with `where`."""
    try:
        yield
    except DatasetError:
        raise
    except KeyError as error:
        raise DatasetError(f'{where}: has no {error}') from error
    except Exception as error:
        raise DatasetError(f'{where}: {error}') from error


def raised(read: Callable[[], object]) -> DatasetError | None:
    """The error that `read` raises, or None."""
    try:
        read()
    except DatasetError as error:
        return error
    return None


def readable(read: Callable[[int], Frame], index: int) -> Frame | None:
    """`read(index)`, or None and a line in the log if the frame is broken."""
    try:
        return read(index)
    except (DatasetError, FrameError) as error:
        _LOG.warning('frame %d left out: %s', index, error)
        return None


def vehicle_at(boxes: NDArray[np.float64], position: NDArray[np.float64]) -> int | None:
    """Index of the first box (n, 7) whose outline in the bird's-eye view holds a position (2,), or None."""
    for k, outline in enumerate(bev_corners(boxes)):
        edges, towards = np.roll(outline, -1, axis=0) - outline, position - outline
        if (edges[:, 0] * towards[:, 1] - edges[:, 1] * towards[:, 0] > 0).all():
            return k
    return None


def account(left_out: Mapping[str, int]) -> list[str]:
    """Lines that say what was left out and how often, the most frequent first.

    Args:
        left_out: sum of `CoopFrame.left_out` over frames.
    """
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    lines = [f'left out {count} times: {reason}' for reason, count in ordered[:_LINES]]
    return lines + ([f'left out for {len(ordered) - _LINES} more reasons'] if len(ordered) > _LINES else [])


def returns_within(
    boxes: NDArray[np.float64], ids: NDArray[np.int64], agents: Mapping[int, AgentSweep]
) -> NDArray[np.int64]:
    """(n,) returns inside boxes (n, 7) in the map, without those of each vehicle's own LiDAR."""
    counts = np.zeros(len(boxes), np.int64)
    for agent, sweep in agents.items():
        seen = count_points(transform_points(sweep.pose, sweep.points), boxes)
        counts += np.where(ids == agent, 0, seen)
    return counts
