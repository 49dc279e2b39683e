# SPDX-License-Identifier: Apache-2.0
"""What runs inside OpenCDA's own Python: one file, `diffkd_opencda.py`, which needs nothing else of ours."""
