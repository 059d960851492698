"""`python -m gateway`: started by pagurusd."""

import sys

from gateway.server import main

if __name__ == "__main__":
    sys.exit(main())
