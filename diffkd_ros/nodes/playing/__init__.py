# SPDX-License-Identifier: Apache-2.0
"""Playing frames as topics, in lock-step or in real time."""
