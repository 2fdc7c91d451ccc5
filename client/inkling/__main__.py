# SPDX-License-Identifier: Apache-2.0
"""Runs the command `inkling` for `python -m inkling`."""

import sys

from inkling.cli.main import main

sys.exit(main())
