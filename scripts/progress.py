"""Shows the JSON lines of rootfs_builder as lines for people; ends with status 1 when the build failed.

Run by the system's interpreter, with the standard library only.
"""

import json
import os
import sys
import time

REPEAT_S = 10.0  # a step that takes long is said again: it is alive


def show(text: str, *, quiet: bool) -> None:
    if not quiet:
        print(f"  {text}", flush=True)


def main() -> int:
    quiet = bool(os.environ.get("QUIET"))
    started = time.monotonic()
    last, shown = "", started
    for line in sys.stdin:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            print(f"  | {line.rstrip()}", file=sys.stderr)
            continue
        kind = event.get("event")
        if kind == "progress":
            fraction = event.get("fraction")
            share = "" if fraction is None else f" {fraction:4.0%}"
            text = f"{event.get('phase', '')}: {event.get('message', '')}"
            now = time.monotonic()
            if text != last or now - shown > REPEAT_S:
                show(f"{now - started:5.1f} s{share}  {text}", quiet=quiet)
                last, shown = text, now
        elif kind == "done":
            show(f"done in {time.monotonic() - started:.1f} s", quiet=quiet)
            return 0
        elif kind == "failed":
            print(f"  failed: {event.get('message', '')}", file=sys.stderr)
            if event.get("hint"):
                print(f"  next step: {event['hint']}", file=sys.stderr)
            return 1
    print("  the builder ended without saying how", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
