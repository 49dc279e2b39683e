# SPDX-License-Identifier: Apache-2.0
"""What detections are worth: matching, average precision, robustness, calibration, link cost."""
