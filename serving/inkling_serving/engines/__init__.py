# SPDX-License-Identifier: Apache-2.0
"""The engines, which run models: in this process or on other servers."""
