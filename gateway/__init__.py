"""Policy, unprivileged: HTTP, scheduling, the store, and the command line that speaks to them."""
