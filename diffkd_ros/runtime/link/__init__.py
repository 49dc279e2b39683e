# SPDX-License-Identifier: Apache-2.0
"""The layered message of a sweep: boxes, a coarse map of codes and fine codes of tiles, in chunks."""
