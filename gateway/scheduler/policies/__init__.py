"""The policies that a node can have, by name. Pure."""
