# SPDX-License-Identifier: Apache-2.0
"""What any node needs: entry, parameters, diagnostics, quality of service, subscriptions."""
