# SPDX-License-Identifier: Apache-2.0
"""A vehicle's own input: sweeps, and the poses at their stamps."""
