# SPDX-License-Identifier: Apache-2.0
"""The adapter for OpenCDA: `diffkd_opencda` runs in OpenCDA's own Python, `steps` in the gateway."""
