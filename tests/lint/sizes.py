#!/usr/bin/env python3
"""Report the sizes of source files and fail on one that has grown past the limit: it usually has two subjects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 700
KERNEL_LIMIT = 900
SUFFIXES = {".h", ".cc", ".inl", ".cu", ".cuh", ".hip", ".py"}


def main() -> int:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = {
        name: (ROOT / name).read_text().count("\n")
        for name in listed.splitlines()
        if Path(name).suffix in SUFFIXES and (ROOT / name).is_file()
    }
    ordered = sorted(lines.values())
    print(
        f"sizes: {len(ordered)} files, median {ordered[len(ordered) // 2]} lines, "
        f"95th percentile {ordered[len(ordered) * 95 // 100]}, longest {ordered[-1]}"
    )
    too_long = {n: c for n, c in lines.items() if c > (KERNEL_LIMIT if n.startswith("kernels_") else LIMIT)}
    for name, count in too_long.items():
        print(f"{name}: {count} lines, at most {LIMIT} ({KERNEL_LIMIT} in kernels)")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
