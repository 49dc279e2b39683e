# SPDX-License-Identifier: Apache-2.0
"""How a student is made: recipe, data, targets, losses, stages, loop."""
