# SPDX-License-Identifier: Apache-2.0
"""Checks of a vehicle's own sensors: whether sweeps show the present, in the right place and all around."""
