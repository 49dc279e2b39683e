# SPDX-License-Identifier: Apache-2.0
"""Export of a trained student to the model folder that the nodes load."""
