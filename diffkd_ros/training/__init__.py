# SPDX-License-Identifier: Apache-2.0
"""Training of a student: recipe, data, targets, losses, stages and the loop that runs them."""
