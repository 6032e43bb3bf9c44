"""SPEAKS: bytes to messages and back, for both ends of a connection. No sockets, no clock."""
