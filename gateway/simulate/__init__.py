"""The scheduler under virtual time: traces of days replayed in seconds, with costs that were measured."""
