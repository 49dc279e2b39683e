# SPDX-License-Identifier: Apache-2.0
from hypothesis import settings

# A busy machine, or a first call that compiles, is no failure.
settings.register_profile('no deadline', deadline=None)
settings.load_profile('no deadline')
