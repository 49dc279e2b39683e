# SPDX-License-Identifier: Apache-2.0
"""Encoding and inference: lifecycle, inference thread, and its report."""
