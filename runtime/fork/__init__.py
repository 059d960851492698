"""Zygotes and helpers: the code that runs inside them, and pagurusd's side of it."""
