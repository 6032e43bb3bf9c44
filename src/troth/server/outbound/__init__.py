"""What reaches branches: each turns a call into a message and its answer into an event."""
