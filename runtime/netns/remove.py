"""`python -m runtime.netns.remove STATE_DIR`: takes a node's rules from the host. For scripts/uninstall.

Only what a pagurusd that was killed has left; one that stops in order removes it itself.
"""

import sys
from pathlib import Path

from runtime.netns import egress, nft


def main(state_dir: Path) -> bool:
    """Whether there was anything to remove. Raises OSError."""
    try:
        table = egress.table_name((state_dir / "node-id").read_text().strip())
        uplinks = nft.uplinks(table)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if uplinks is None:
        return False
    egress.take_away(table, uplinks)
    sys.stdout.write(f"nftables table inet {table}: removed\n")
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
