# SPDX-License-Identifier: Apache-2.0
"""Bags without ROS: writing them from any source of frames, reading what a run found, watching them."""
