# SPDX-License-Identifier: Apache-2.0
"""Poses, boxes and their overlap; the border between CARLA's left-handed world and REP-103."""
