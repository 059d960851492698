"""Mechanism: what runs as root, and the leaves that every process of Pagurus shares."""
