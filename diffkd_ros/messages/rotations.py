# SPDX-License-Identifier: Apache-2.0
"""Quaternions in ROS order (x, y, z, w) as (4, 4) matrices.

By tf_transformations where it is installed, as ROS distributions have it, else by transforms3d, which
tf_transformations wraps. Both take and give float64.
"""

from __future__ import annotations

__all__ = ['quaternion_from_matrix', 'quaternion_matrix']

try:
    from tf_transformations import quaternion_from_matrix, quaternion_matrix
except ImportError:  # it has no wheel
    import numpy as np
    from numpy.typing import ArrayLike
    from transforms3d.quaternions import mat2quat, quat2mat

    from diffkd_ros.geometry.poses import Matrix

    def quaternion_matrix(xyzw: ArrayLike) -> Matrix:
        """The rotation of a quaternion, which need not have unit length."""
        matrix = np.eye(4)
        matrix[:3, :3] = quat2mat(np.roll(xyzw, 1))
        return matrix

    def quaternion_from_matrix(matrix: Matrix) -> tuple[float, float, float, float]:
        """The unit quaternion of a matrix's rotation, w >= 0."""
        w, x, y, z = mat2quat(matrix[:3, :3])
        return x, y, z, w
