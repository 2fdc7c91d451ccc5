"""`python -m inkling` is the command `inkling`."""

import sys

from inkling.cli.main import main

sys.exit(main())
