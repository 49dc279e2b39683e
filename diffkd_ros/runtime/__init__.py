# SPDX-License-Identifier: Apache-2.0
"""Inference: ONNX Runtime sessions, the V2X feature codec and box decoding, without torch."""
