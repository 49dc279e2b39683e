# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes. rclpy is imported only below here (and in `cosim`)."""
