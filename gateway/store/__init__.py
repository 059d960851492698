"""What outlives the gateway: functions, versions and invocation records in SQLite."""
