# SPDX-License-Identifier: Apache-2.0
"""Inference: ONNX Runtime sessions, the V2X feature codec and box decoding, without torch."""

import os

# Before anything here imports ONNX Runtime: 1.29 and later write a device id to the user's cache folder and
# send usage data to their maker.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
