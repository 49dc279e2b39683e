# SPDX-License-Identifier: Apache-2.0
"""From a trained student to the model folder that vehicles load."""
