# SPDX-License-Identifier: Apache-2.0
"""ROS messages without rclpy: reading them, building them, and names of topics and agents."""
