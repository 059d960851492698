"""Network namespaces of sandboxes, and what is in them."""
