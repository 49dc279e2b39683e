# SPDX-License-Identifier: Apache-2.0
"""The V2X link: neighbours' features, the link's statistics, and the choice of what is fused."""
