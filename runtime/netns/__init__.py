"""Network namespaces: the pool of them, ready before they are needed."""
