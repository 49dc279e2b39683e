# SPDX-License-Identifier: Apache-2.0
"""Managed nodes that run a model: parameters, lifecycle, pipeline, inference thread and report."""
