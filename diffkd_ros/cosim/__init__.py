# SPDX-License-Identifier: Apache-2.0
"""Co-simulation: CARLA's vehicles as frames, detections back to OpenCDA, and stand-ins for both."""
