# SPDX-License-Identifier: Apache-2.0
"""Starting nodes as launch actions or processes. No ROS is imported."""
