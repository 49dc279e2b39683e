# SPDX-License-Identifier: Apache-2.0
"""The networks, in plain torch: encoder, restoration, fusion and head, combined into teacher and student."""
