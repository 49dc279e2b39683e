# SPDX-License-Identifier: Apache-2.0
"""`diffkd bench`: duration of each part on this machine, beside the classic design's."""
