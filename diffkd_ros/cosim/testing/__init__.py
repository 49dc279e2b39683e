# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for a CARLA server and for OpenCDA, which the real CARLA client and our adapter run against."""
