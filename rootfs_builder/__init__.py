"""Base root file systems, locks, environments and code trees; runs as a process of its own."""
