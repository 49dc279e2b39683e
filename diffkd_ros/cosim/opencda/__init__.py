# SPDX-License-Identifier: Apache-2.0
"""The adapter for OpenCDA: one file, `diffkd_opencda.py`, that runs in OpenCDA's own Python."""
