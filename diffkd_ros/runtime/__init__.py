# SPDX-License-Identifier: Apache-2.0
"""What a vehicle runs: ONNX Runtime sessions, the V2X feature codec and box decoding. No torch."""
