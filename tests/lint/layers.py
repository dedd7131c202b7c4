#!/usr/bin/env python3
"""Check which room includes which: the table below is the architecture, and a wrong include fails the build.

A room is a folder of cpp/, a kernel tree or the bindings. Every quoted include of a source file must lead into the
room itself, `core`, or a room that its row names. And PTX is written only in files of kernels_cuda for which
tests/cuda_on_cpu has another one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# room -> rooms it may include, besides itself and core. "public" stands for cpp/include/quire.
ALLOWED: dict[str, set[str]] = {
    "public": set(),
    "core": {"public/error.h", "public/log.h"},
    "backend": set(),
    "backend/cpu": {"backend", "comm/communicator.h"},
    "comm": {"backend"},
    "spec": set(),
    "weights": {"spec", "backend"},
    "model": {"backend", "comm/communicator.h", "spec", "weights"},
    "kv": {"spec"},
    "sched": {"kv"},
    "runtime": {
        "model",
        "weights",
        "spec",
        "kv",
        "sched/step_plan.h",
        "sched/sequence.h",
        "backend",
        "comm/communicator.h",
        "public",
    },
    "text": {"public/vocabulary.h"},
    "engine": {"runtime", "model", "weights", "spec", "sched", "kv", "text", "backend", "comm", "public"},
    "bindings": {"public"},
    "kernels_cuda": {"backend", "comm/communicator.h"},
    # Of the CUDA backend, whose sources it compiles, only headers that say nothing of NVIDIA's.
    "kernels_hip": {
        "backend",
        "comm/communicator.h",
        "kernels_cuda/attention/kv_page.cuh",
        "kernels_cuda/attention/problem.h",
        "kernels_cuda/attention/query_tile.cuh",
        "kernels_cuda/chain/chain.h",
        "kernels_cuda/comm/peers.h",
        "kernels_cuda/common/device.h",
        "kernels_cuda/common/launch.cuh",
        "kernels_cuda/common/numbers.cuh",
        "kernels_cuda/common/reduce.cuh",
        "kernels_cuda/common/vendor.cuh",
        "kernels_cuda/gemm/activate.cuh",
        "kernels_cuda/gemm/blas_library.h",
        "kernels_cuda/gemm/grouped.h",
        "kernels_cuda/gemm/stream_rows.h",
        "kernels_cuda/gemm/tile.cuh",
        "kernels_cuda/gemm/tile.h",
        "kernels_cuda/gemm/tile_schedule.cuh",
        "kernels_cuda/moe/tiles.h",
    },
}
EXCEPTIONS = {
    # The one place that knows which backends there are.
    "cpp/backend/registry.cc": {"backend/cpu"},
    # The two that know whose compiler it is.
    "kernels_cuda/common/vendor.h": {"kernels_hip/compat.h"},
    "kernels_cuda/common/vendor.cuh": {"kernels_hip/compat.cuh"},
}

FOLDERS = {
    "cpp/include/quire": "public",
    "cpp/backend/cpu": "backend/cpu",
    "pyapi/bindings": "bindings",
    "kernels_cuda": "kernels_cuda",
    "kernels_hip": "kernels_hip",
}
FOR_CPU = ROOT / "tests/cuda_on_cpu"
PTX = re.compile(r"^\s*asm\b", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SUFFIXES = {".h", ".cc", ".inl", ".cu", ".cuh", ".hip"}


def room_of(path: str) -> str | None:
    """The room of a file, by its path from the repository's root."""
    for folder, room in FOLDERS.items():
        if path.startswith(folder + "/"):
            return room
    parts = path.split("/")
    return parts[1] if parts[0] == "cpp" and len(parts) > 2 else None


def target_of(include: str) -> str:
    """The path from the root that an include leads to."""
    if include.startswith("quire/"):
        return "cpp/include/" + include
    return include if include.startswith(("kernels_", "pyapi/")) else "cpp/" + include


def allowed(room: str, source: str, include: str) -> bool:
    target = target_of(include)
    target_room = room_of(target)
    if target_room is None:
        return False
    permitted = ALLOWED[room] | EXCEPTIONS.get(source, set())
    if target_room in {room, "core"} or target_room in permitted:
        return True
    short = include.replace("quire/", "public/", 1) if include.startswith("quire/") else include
    return any(short == entry or short.startswith(entry + "/") for entry in permitted)


def main() -> int:
    problems: list[str] = []
    checked = 0
    for top in ("cpp", "pyapi/bindings", "kernels_cuda", "kernels_hip"):
        for path in sorted((ROOT / top).rglob("*")):
            source = path.relative_to(ROOT).as_posix()
            room = room_of(source)
            if path.suffix not in SUFFIXES or room is None:
                continue
            if room not in ALLOWED:
                problems.append(f"{source}: room '{room}' has no row in tests/lint/layers.py")
                continue
            checked += 1
            text = path.read_text()
            if room == "kernels_cuda" and PTX.search(text) and not (FOR_CPU / source).exists():
                problems.append(f"{source}: PTX belongs into kernels_cuda/common/instructions.cuh")
            for include in INCLUDE.findall(text):
                if not allowed(room, source, include):
                    problems.append(f"{source}: room '{room}' may not include \"{include}\"")
    print("\n".join(problems) if problems else f"layers: {checked} files follow the include rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
