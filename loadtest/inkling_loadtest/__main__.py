# SPDX-License-Identifier: Apache-2.0
"""Runs Locust on our locustfile: `python -m inkling_loadtest --host http://...`."""

from __future__ import annotations

import sys
from pathlib import Path

from locust.main import main

if __name__ == "__main__":
    locustfile = Path(__file__).with_name("locust_side") / "locustfile.py"
    sys.argv[1:1] = ["-f", str(locustfile)]
    main()  # type: ignore[no-untyped-call]
