"""Unpacks the ELF kernel out of a vmlinuz: qemu boots it directly (PVH), and nothing is left to unpack in the machine.

unpack_kernel.py VMLINUZ OUTPUT
"""

import subprocess
import sys
from pathlib import Path

ELF = b"\x7fELF"
LEAST_BYTES = 10_000_000  # what is smaller is some table that begins like a packed kernel
FORMATS = {  # how the packed kernel begins -> the program that unpacks it from stdin
    b"\x02\x21\x4c\x18": ("lz4", "-dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-qdc"),
    b"\xfd7zXZ\x00": ("xz", "-dc"),
    b"\x1f\x8b\x08": ("gzip", "-dc"),
}


def unpack(data: bytes) -> bytes | None:
    """The kernel's ELF file, or None when no known format holds one."""
    for magic, command in FORMATS.items():
        start = data.find(magic)
        while start >= 0:
            # Bytes behind the packed kernel make the programs end with an error: what counts is what came out.
            found = subprocess.run(command, input=data[start:], capture_output=True, check=False).stdout
            if found.startswith(ELF) and len(found) >= LEAST_BYTES:
                return found
            start = data.find(magic, start + 1)
    return None


def main() -> int:
    source, output = sys.argv[1:]
    kernel = unpack(Path(source).read_bytes())
    if kernel is None:
        print(f"{source} holds no kernel that is packed by lz4, zstd, xz or gzip", file=sys.stderr)
        return 1
    Path(output).write_bytes(kernel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
