# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a CARLA server, for the demo and for tests with the real CARLA client."""
