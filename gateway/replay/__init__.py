"""Replays a trace of calls against a running node and reports what it cost. Runs in `pagurus bench`."""
