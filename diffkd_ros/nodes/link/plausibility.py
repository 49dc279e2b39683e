# SPDX-License-Identifier: Apache-2.0
"""Whether a neighbour's pose is possible and of use, before what it sent is decoded."""

from __future__ import annotations

from itertools import product

import numpy as np

from diffkd_ros.geometry.grid import BevGrid
from diffkd_ros.geometry.lidar_pose import LidarPose
from diffkd_ros.geometry.poses import Matrix
from diffkd_ros.messages.reading import NANOSECONDS
from diffkd_ros.nodes.link.refusal import Objection, Refusal

# Metres between the heights of two LiDARs that see the same road, with slopes of 10 % and more.
_HEIGHT = 30.0
# Metres in the plane and in height within which two LiDARs cannot be on different vehicles.
_APART, _ABOVE = 1.5, 2.0
# Cosine of the largest angle between a LiDAR's z axis and the map's: the maps are warped in the plane only.
_UPRIGHT = 0.7
# Standard deviations, metres and radians, with which a box lies next to its object. RViz and AMCL state
# 0.26 rad by default.
_POSITION = 5.0
_HEADING = 0.35
# Metres per second, and metres that an honest pose may be corrected by.
_FASTEST = 70.0
_CORRECTION = 3.0
# Nanoseconds. Over a longer pause a sender may be anywhere, in another scenario for example.
_PAUSE = 1 * NANOSECONDS


def in_place_of(ego_pose: Matrix, pose: Matrix) -> bool:
    """Whether a LiDAR is where the ego's vehicle is, by their poses (4, 4) in the map."""
    away = pose[:3, 3] - ego_pose[:3, 3]
    return bool(np.hypot(*away[:2]) < _APART and abs(away[2]) < _ABOVE)


class PoseCheck:
    """Compares the poses of neighbours with the ego's and with their own previous ones.

    Args:
        grid: of all agents' maps.
    """

    def __init__(self, grid: BevGrid) -> None:
        corners = product((grid.x_min, grid.x_max), (grid.y_min, grid.y_max))
        self._reach = 2 * max(float(np.hypot(*corner)) for corner in corners)
        # Of each sender: stamp and position of the newest sweep, and whether it jumped there.
        self._tracks: dict[str, tuple[int, np.ndarray, Objection | None]] = {}

    def keep(self, senders: set[str]) -> None:
        """Forget the positions of all other senders."""
        self._tracks = {sender: track for sender, track in self._tracks.items() if sender in senders}

    def objection(self, sender: str, stamp: int, lidar: LidarPose, ego_pose: Matrix) -> Objection | None:
        """Why a sweep is refused for its pose.

        Args:
            sender: its name.
            stamp: of the sweep, nanoseconds.
            lidar: the sender's pose and motion, in the map frame of the ego.
            ego_pose: (4, 4) map <- LiDAR of the ego.
        """
        jump = self._jump(sender, stamp, lidar.pose[:3, 3])
        away = lidar.pose[:3, 3] - ego_pose[:3, 3]
        distance, height = float(np.hypot(*away[:2])), abs(float(away[2]))
        if distance > self._reach:
            return Objection(Refusal.FAR, f'{distance:.0f} m, the maps overlap up to {self._reach:.0f} m')
        if height > _HEIGHT:
            return Objection(Refusal.FAR, f'{height:.0f} m above or below, at most {_HEIGHT:g} m')
        if in_place_of(ego_pose, lidar.pose):
            return Objection(Refusal.PLACE, f'{distance:.1f} m away, at least {_APART:g} m')
        if lidar.pose[2, 2] < _UPRIGHT:
            angle = np.degrees(np.arccos(max(-1.0, lidar.pose[2, 2])))
            return Objection(Refusal.POSE, f'tilted by {angle:.0f} degrees')
        return _uncertain(lidar) or _speeding(lidar) or jump

    def _jump(self, sender: str, stamp: int, position: np.ndarray) -> Objection | None:
        last = self._tracks.get(sender)
        objection = None
        if last is not None:
            before, place, known = last
            if stamp == before:
                return known
            elapsed, moved = abs(stamp - before), float(np.linalg.norm(position - place))
            allowed = _CORRECTION + _FASTEST * elapsed / NANOSECONDS
            if elapsed <= _PAUSE and moved > allowed:
                detail = f'{moved:.1f} m within {elapsed / NANOSECONDS:.2f} s, at most {allowed:.1f} m'
                objection = Objection(Refusal.MOTION, detail)
        self._tracks[sender] = stamp, position, objection
        return objection


def _uncertain(lidar: LidarPose) -> Objection | None:
    x, y, _, _, _, heading = np.sqrt(np.maximum(np.diag(lidar.covariance), 0.0))
    if max(x, y) > _POSITION or heading > _HEADING:
        detail = f'{max(x, y):.1f} m and {heading:.2f} rad, at most {_POSITION:g} m and {_HEADING:g} rad'
        return Objection(Refusal.UNCERTAIN, detail)
    return None


def _speeding(lidar: LidarPose) -> Objection | None:
    speed = 0.0 if lidar.linear is None else float(np.linalg.norm(lidar.linear))
    if speed > _FASTEST:
        return Objection(Refusal.MOTION, f'{speed:.0f} m/s, at most {_FASTEST:g} m/s')
    return None
