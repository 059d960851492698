"""The API's description, OpenAPI 3.1, by hand. A test compares it with the routes."""

DOCUMENT: dict[str, object] = {}
