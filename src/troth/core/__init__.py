"""DECIDES: the coordinator's pure heart. No I/O, clock, chance or log in here (DESIGN §2)."""
