# SPDX-License-Identifier: Apache-2.0
"""What a run was worth: average precision, latency, link cost, and pictures of single frames."""
