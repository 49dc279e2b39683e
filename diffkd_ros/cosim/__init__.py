# SPDX-License-Identifier: Apache-2.0
"""Co-simulation with CARLA and OpenCDA, and a stand-in for the CARLA server."""
