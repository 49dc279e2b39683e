# SPDX-License-Identifier: Apache-2.0
"""What the run needs of a reader."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, ClassVar

from diffkd_ros.errors import DiffkdError
from diffkd_ros.sources.source import Source

Files = dict[str, bytes]
"""Contents by path below a folder."""


class Reader:
    """A reader of the package, valid input for it and damaged input.

    Attributes:
        parts: number of damaged parts in a case, each of which counts as one.

    Args:
        folder: empty, for its files.
    """

    parts: ClassVar[int] = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def valid(self) -> list[Any]:
        """Undamaged inputs."""
        raise NotImplementedError

    def case(self, rng: Random) -> Any:
        """A damaged input."""
        raise NotImplementedError

    def read(self, case: Any) -> Any:
        """Read it; the numbers in the result must be finite.

        Raises:
            DiffkdError: if nothing of it can be read.
        """
        raise NotImplementedError


def frames_of(source: Source) -> Any:
    """Read a recorded source as `diffkd data check` does: its problems and every frame.

    Raises:
        DiffkdError: if it cannot be opened, or no frame can be read.
    """
    dataset = source.open_dataset()
    list(dataset.strays())
    if sum(len(rows) for _, rows in dataset.scenarios()) != len(dataset):
        raise AssertionError('the scenarios are not all frames')
    frames, refused = [], []

    def read(index: int) -> None:
        try:
            frame = dataset[index]
        except DiffkdError as error:
            if not dataset.problems(index):
                raise AssertionError(f'no problem is listed for: {error}') from error
            refused.append(error)
        else:
            frames.append((frame.agents, frame.stamp, frame.ground_truth))

    for index in range(len(dataset)):
        read(index)
    if refused and not frames:
        raise refused[0]
    return frames
