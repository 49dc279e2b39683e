# SPDX-License-Identifier: Apache-2.0
"""What recorded data sets have in common: frames by number, and damage that costs a frame, never a run."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from diffkd_ros.errors import DiffkdError
from diffkd_ros.frame import CoopFrame, FrameError

_LOG = logging.getLogger(__name__)
_Result = TypeVar('_Result')


class DatasetError(DiffkdError):
    """A folder or file of a data set that is not as its format has it; the message names it and why."""


class FrameDataset(Protocol):
    """A data set on disk, listed once, whose files are read when a frame is asked for."""

    root: Path

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, index: int) -> CoopFrame:
        """Read a frame.

        Raises:
            IndexError: if there is no such frame.
            DatasetError: if one of its files is missing or damaged.
        """

    def drives(self) -> list[tuple[str, range]]:
        """Name and frame numbers of each scenario, in order; reads no file."""

    def files(self, rows: range) -> set[Path]:
        """The files, resolved, that tell these frames from all others; reads none."""

    def problems(self, index: int) -> list[DatasetError]:
        """What is wrong with each of a frame's files; empty if nothing is."""

    def strays(self) -> Iterable[DatasetError]:
        """What lies in the set's folders and belongs to no frame though it looks as if it should."""


def raised(read: Callable[[], object]) -> DatasetError | None:
    """What is wrong with what `read` reads, None if nothing is."""
    try:
        read()
    except DatasetError as error:
        return error
    return None


def log_broken_frame(index: int, error: DiffkdError) -> None:
    """Say in a line of the log that a frame is left out, and why."""
    _LOG.warning('frame %d left out: %s', index, error)


def readable_frames(
    dataset: FrameDataset,
    on_error: Callable[[int, DiffkdError], object] = log_broken_frame,
    workers: int = 0,
) -> Iterator[CoopFrame]:
    """The frames of a set in order, without the broken ones.

    Args:
        dataset: to read.
        on_error: called with the number of each broken frame and what is wrong with it; whoever counts them
            does it here.
        workers: processes that read ahead; 0 reads in this one.
    """
    for index, frame in enumerate(map_dataset(dataset, _read_frame, workers)):
        if isinstance(frame, DiffkdError):
            on_error(index, frame)
        else:
            yield frame


def map_dataset(
    dataset: FrameDataset, function: Callable[[FrameDataset, int], _Result], workers: int = 0
) -> Iterator[_Result]:
    """`function(dataset, index)` for every frame number in order, where wanted by several processes.

    Args:
        dataset: handed to each process once.
        function: of a module; the processes import it.
        workers: processes; 0 does without. No more than three results a process wait to be fetched.
    """
    if workers == 0:
        yield from (function(dataset, index) for index in range(len(dataset)))
        return
    # A forked child of a process with threads (ONNX Runtime's, rclpy's) may hang, hence `spawn`.
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn'), initializer=_keep, initargs=(dataset,)
    ) as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for index in range(len(dataset)):
                waiting.append(pool.submit(_apply, function, index))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_frame(dataset: FrameDataset, index: int) -> CoopFrame | DiffkdError:
    try:
        return dataset[index]
    except (DatasetError, FrameError) as error:
        return error


# A worker process's own copy of the data set.
_kept: FrameDataset | None = None


def _keep(dataset: FrameDataset) -> None:
    global _kept
    _kept = dataset


def _apply(function: Callable[[FrameDataset, int], Any], index: int) -> Any:
    assert _kept is not None
    return function(_kept, index)
