# SPDX-License-Identifier: Apache-2.0
"""Outputs of nodes: detections in several message types, markers, recordings."""
