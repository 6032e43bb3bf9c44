"""REMEMBERS: the store seam and one file per engine. A store keeps what the core tells it and decides nothing."""
