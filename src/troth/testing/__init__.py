"""A simulated world around the real coordinator, from one seed in virtual time (docs/simulation.md)."""
