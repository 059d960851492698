"""Base rootfs and functions' code and packages: unpacks, resolves, installs. A process of its own, one per build."""
