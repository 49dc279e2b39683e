# SPDX-License-Identifier: Apache-2.0
"""The networks, in torch alone: encoder, restoration, fusion, head; teacher and student built from them."""
