# SPDX-License-Identifier: Apache-2.0
"""Runs all lessons, and prints a table of their numbers: `make examples`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import time
from pathlib import Path

import examples
from examples.shared import Numbers, Setting, show

__all__ = ["lessons", "main"]


def lessons() -> list[str]:
    """Return the modules of the lessons, in their order."""
    names = [module.name for module in pkgutil.iter_modules(examples.__path__)]
    return sorted(name for name in names if name.startswith("lesson_"))


def main() -> None:
    """Run the lessons that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="lessons, such as 4 10")
    parser.add_argument("--short", action="store_true", help="take fewer steps")
    parser.add_argument("--figures", type=Path, default=Setting.figures)
    parser.add_argument("--work", type=Path, default=Setting.work)
    options = parser.parse_args()
    setting = Setting(options.short, options.figures, options.work)
    table: dict[str, tuple[float, Numbers]] = {}
    for name in lessons():
        if not options.numbers or int(name.split("_")[1]) in options.numbers:
            module = importlib.import_module(f"examples.{name}")
            print(f"\n== {str(module.__doc__).splitlines()[0]}", flush=True)
            began = time.monotonic()
            numbers = module.run(setting)
            table[name] = (time.monotonic() - began, numbers)
    for name, (took_s, numbers) in table.items():
        print(f"\n{name}: {took_s:.0f} s")
        show(numbers)
    print(f"\nAll lessons: {sum(took_s for took_s, _ in table.values()):.0f} s")


if __name__ == "__main__":
    main()
