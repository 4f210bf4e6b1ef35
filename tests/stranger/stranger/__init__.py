"""A client of the Conclave protocol, written from docs/PROTOCOL.md. A "§" with a number is a section of that page."""
