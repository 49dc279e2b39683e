# SPDX-License-Identifier: Apache-2.0
"""A LiDAR's pose and motion, and its pose at the stamp of a sweep."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from diffkd_ros.geometry.motion import between, cross_matrix, moved, twist_between
from diffkd_ros.geometry.poses import Matrix, PoseError, pose_from_euler

# Two poses further apart, seconds, do not give a velocity.
_LONGEST_STEP = 1.0


@dataclass(frozen=True)
class LidarPose:
    """Where a LiDAR is and how it moves.

    Attributes:
        pose: (4, 4) map <- LiDAR.
        map_frame: the frame the pose is given in.
        covariance: (6, 6) of x, y, z and the rotations about the map's axes; all zero: unknown.
        linear: (3,) metres per second in the LiDAR frame; None: unknown.
        angular: (3,) radians per second in the LiDAR frame.
        twist_covariance: (6, 6) of linear and angular velocity, in the LiDAR frame.
    """

    pose: Matrix
    map_frame: str
    covariance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))
    linear: NDArray[np.float64] | None = None
    angular: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    twist_covariance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))


def mounting(base_to_lidar: Sequence[float]) -> Matrix | None:
    """The (4, 4) transform vehicle <- LiDAR from x, y, z (m), roll, pitch, yaw (rad); None if all are zero.

    Raises:
        PoseError: if they are not six finite numbers.
    """
    if len(base_to_lidar) != 6:
        raise PoseError(f'a mounting is x, y, z, roll, pitch, yaw, got {len(base_to_lidar)} numbers')
    return pose_from_euler(base_to_lidar[:3], *base_to_lidar[3:]) if any(base_to_lidar) else None


def mounted(base: LidarPose, base_to_lidar: Matrix) -> LidarPose:
    """The LiDAR's pose and motion from those of its vehicle; `base_to_lidar` is (4, 4) vehicle <- LiDAR."""
    rotation, lever = base_to_lidar[:3, :3], base_to_lidar[:3, 3]
    # A rotation error about the vehicle's origin moves the LiDAR by the lever, turned into the map.
    to_map = np.eye(6)
    to_map[:3, 3:] = -cross_matrix(base.pose[:3, :3] @ lever)
    to_lidar = np.zeros((6, 6))
    to_lidar[:3, :3] = to_lidar[3:, 3:] = rotation.T
    to_lidar[:3, 3:] = -rotation.T @ cross_matrix(lever)
    return LidarPose(
        base.pose @ base_to_lidar,
        base.map_frame,
        to_map @ base.covariance @ to_map.T,
        None if base.linear is None else rotation.T @ (base.linear + np.cross(base.angular, lever)),
        rotation.T @ base.angular,
        to_lidar @ base.twist_covariance @ to_lidar.T,
    )


def supporting_stamps(stamps: Sequence[int], stamp: int, tolerance: int) -> list[int]:
    """Choose the stamps of the poses from which `pose_at` computes the pose at another stamp.

    Args:
        stamps: of all poses, ascending, nanoseconds.
        stamp: at which a pose is wanted, nanoseconds.
        tolerance: largest distance to the nearest, nanoseconds.

    Returns:
        The nearest stamp (of two equally near ones the earlier) and, unless it is `stamp` itself, the nearest
        on the other side or, before the first and after the last, the next one on the same side. Empty if no
        stamp is within the tolerance.
    """
    place = bisect.bisect_left(stamps, stamp)
    if place < len(stamps) and stamps[place] == stamp:
        return [stamp]
    first = min(max(0, place - 1), max(0, len(stamps) - 2))
    chosen = sorted(stamps[first : first + 2], key=lambda other: abs(other - stamp))
    return chosen if chosen and abs(chosen[0] - stamp) <= tolerance else []


def pose_at(stamp: int, stamps: Sequence[int], read: Callable[[int], LidarPose]) -> LidarPose:
    """Compute a LiDAR's pose at a stamp.

    It is the pose with that stamp if there is one, else interpolated between the poses before and after it,
    else extrapolated from the nearest by its twist or, if that is unknown, by the velocity between the two
    nearest. All but the pose is that of the nearest.

    Args:
        stamp: nanoseconds.
        stamps: from `supporting_stamps`, not empty.
        read: gives the pose with one of the stamps; called for those that are needed, and may raise.
    """
    at, *others = stamps
    nearest = read(at)
    if at == stamp:
        return nearest
    seconds = (stamp - at) / 1e9
    linear, angular = nearest.linear, nearest.angular
    for other in others:
        if (other > stamp) != (at > stamp):
            return replace(nearest, pose=between(nearest.pose, read(other).pose, (stamp - at) / (other - at)))
        step = (other - at) / 1e9
        if linear is None and abs(step) <= _LONGEST_STEP:
            linear, angular = twist_between(nearest.pose, read(other).pose, step)
    if linear is None:
        return nearest
    return replace(nearest, pose=moved(nearest.pose, linear, angular, seconds))
