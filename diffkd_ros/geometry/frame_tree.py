# SPDX-License-Identifier: Apache-2.0
"""A tree of coordinate frames with constant transforms, such as the mountings of a vehicle's sensors."""

from __future__ import annotations

import numpy as np

from diffkd_ros.geometry.poses import Matrix, inverse


class FrameTree:
    """Frames by name, each with its parent and the (4, 4) transform parent <- frame."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Matrix]] = {}

    def add(self, parent: str, child: str, transform: Matrix) -> None:
        """Add a frame, or replace its transform; names may begin with a slash, as in ROS 1."""
        self._parents[child.lstrip('/')] = parent.lstrip('/'), transform

    def between(self, target: str, source: str) -> Matrix | None:
        """The (4, 4) transform target <- source; None if no transforms connect the two."""
        to_source, to_target = self._ancestors(source), self._ancestors(target)
        common = next((frame for frame in to_source if frame in to_target), None)
        return None if common is None else inverse(to_target[common]) @ to_source[common]

    def _ancestors(self, frame: str) -> dict[str, Matrix]:
        """The transform ancestor <- frame of the frame itself and of all its ancestors, the nearest first."""
        frame, transform = frame.lstrip('/'), np.eye(4)
        found = {frame: transform}
        while frame in self._parents:
            frame, to_parent = self._parents[frame]
            if frame in found:
                break  # a cycle
            transform = to_parent @ transform
            found[frame] = transform
        return found
