#!/usr/bin/env python3
"""Print what the kernels of a libquire_hip.so take of an AMD GPU, and fail if one that must be fast spills.

The numbers are the compiler's, read from the code objects in the library. VGPRs and LDS are what limits how many waves
run at a time; scratch is memory that stands in for registers. Lanes of VGPRs that hold SGPRs cost little and are not
counted as spills.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
# Kernels that a step of a model spends its time in.
HOT = {
    "activation_kernel",
    "decode_kernel",
    "few_tokens_kernel",
    "generic_kernel",
    "kv_write_kernel",
    "measure_rows",
    "norm_kernel",
    "prefill_kernel",
    "rope_chunks_kernel",
    "stream_rows_kernel",
    "tile_kernel",
}


class Kernel(NamedTuple):
    """One kernel of one target, in registers per lane and bytes per block or lane."""

    name: str
    target: str
    vgprs: int
    agprs: int
    sgprs: int
    lds: int
    scratch: int
    spilled: int


def code_objects(library: bytes) -> Iterator[tuple[str, bytes]]:
    """Targets and ELF files of all bundles: a count, then offset, size and name of each, then the files."""
    start = library.find(MAGIC)
    while start >= 0:
        place = start + len(MAGIC)
        (count,) = struct.unpack_from("<Q", library, place)
        place += 8
        for _ in range(count):
            offset, size, length = struct.unpack_from("<QQQ", library, place)
            place += 24
            name = library[place : place + length].decode()
            place += length
            if "amdgcn" in name:
                yield name.rpartition("--")[2], library[start + offset : start + offset + size]
        start = library.find(MAGIC, start + len(MAGIC))


def readelf() -> str:
    """The program that reads the notes of a code object."""
    found = [shutil.which(name) for name in ("llvm-readelf", "llvm-readelf-15")]
    folders = [*Path("/usr/lib").glob("llvm-*/bin"), Path("/opt/rocm/llvm/bin")]
    found += [str(folder / "llvm-readelf") for folder in folders if (folder / "llvm-readelf").exists()]
    program = next(filter(None, found), None)
    if program is None:
        sys.exit("hip_resources.py: no llvm-readelf on the PATH; install llvm (Debian: llvm-15)")
    return program


def short_name(symbol: str) -> str:
    """`(anonymous namespace)::norm_kernel<float, 4>(Rows)` -> `norm_kernel`."""
    full = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    matched = re.search(r"(\w+)(<.*>)?\(", full.replace("(anonymous namespace)::", ""))
    return matched.group(1) if matched else symbol


def kernels_of(target: str, code: bytes, program: str) -> Iterator[Kernel]:
    """What the metadata in a code object says of each of its kernels."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        notes = subprocess.run([program, "--notes", file.name], capture_output=True, text=True, check=True).stdout
    # Entries of kernels are indented by two; what belongs to their arguments lies deeper.
    for entry in re.split(r"^  - ", notes.partition("amdhsa.kernels:")[2], flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^(?:    )?\.(\w+): +(\S+)$", entry, flags=re.MULTILINE))
        if "vgpr_count" not in fields:
            continue
        yield Kernel(
            name=short_name(fields["name"]),
            target=target,
            vgprs=int(fields["vgpr_count"]),
            agprs=int(fields.get("agpr_count", 0)),
            sgprs=int(fields["sgpr_count"]),
            lds=int(fields["group_segment_fixed_size"]),
            scratch=int(fields["private_segment_fixed_size"]),
            spilled=int(fields["vgpr_spill_count"]),
        )


def worst(kernels: list[Kernel]) -> Kernel:
    """The largest of every number over the variants of a kernel."""
    numbers = [max(kernel[field] for kernel in kernels) for field in range(2, len(Kernel._fields))]
    return Kernel(kernels[0].name, kernels[0].target, *numbers)


def main() -> int:
    """Read the library, print the table, report spills."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", type=Path)
    program = readelf()
    variants: dict[tuple[str, str], list[Kernel]] = {}
    for target, code in code_objects(parser.parse_args().library.read_bytes()):
        for kernel in kernels_of(target, code, program):
            variants.setdefault((kernel.name, target), []).append(kernel)
    if not variants:
        sys.exit("hip_resources.py: no code objects in that file")
    targets = sorted({target for _, target in variants})
    print("Most of all variants of a kernel: VGPRs (of them accumulation VGPRs) / SGPRs / LDS / scratch, bytes\n")
    print(f"| kernel | variants | {' | '.join(targets)} |\n| --- | ---: |{' --- |' * len(targets)}")
    bad: list[str] = []
    for name in sorted({name for name, _ in variants}):
        cells = []
        for target in targets:
            kernels = variants.get((name, target))
            if kernels is None:
                cells.append("")
                continue
            k = worst(kernels)
            agprs = f" ({k.agprs})" if k.agprs else ""
            numbers = f"{k.vgprs}{agprs} / {k.sgprs} / {k.lds} / {k.scratch}"
            cells.append(numbers if k.vgprs else "does nothing")
            if name in HOT and (k.spilled or k.scratch):
                bad.append(f"{name} on {target}: {k.spilled} registers spilled, {k.scratch} bytes of scratch")
        count = max(len(variants.get((name, target), [])) for target in targets)
        print(f"| `{name}` | {count} | {' | '.join(cells)} |")
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
