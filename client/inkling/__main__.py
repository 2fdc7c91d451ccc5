"""`python -m inkling` is the command `inkling`."""

import sys

from inkling.cli import main

sys.exit(main())
