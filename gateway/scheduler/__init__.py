"""Which sandbox serves which invocation: pure, without clock and I/O."""
