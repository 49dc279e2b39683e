# SPDX-License-Identifier: Apache-2.0
"""Checks of a vehicle's own LiDAR: whether its sweeps describe the present, and all of the surroundings."""
