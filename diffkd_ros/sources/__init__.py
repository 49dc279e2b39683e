# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: each source yields `diffkd_ros.frame.CoopFrame`."""
