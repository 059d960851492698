"""The HTTP surface of the gateway."""
