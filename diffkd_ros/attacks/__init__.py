# SPDX-License-Identifier: Apache-2.0
"""Attacks on cooperative perception: what senders that lie send in place of what they have sensed."""
