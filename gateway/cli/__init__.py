"""The command line, `pagurus`: speaks HTTP to the gateway."""
