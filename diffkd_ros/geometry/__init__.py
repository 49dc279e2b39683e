# SPDX-License-Identifier: Apache-2.0
"""Poses, boxes and their overlap, motion, grids, and the conversion between CARLA's frames and REP-103."""
