"""The client's side of each mode, as flows (see `troth.client.flow`)."""
