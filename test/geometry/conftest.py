# SPDX-License-Identifier: Apache-2.0
from hypothesis import settings

# No deadline: machines may be busy, and first calls compile.
settings.register_profile('no deadline', deadline=None)
settings.load_profile('no deadline')
