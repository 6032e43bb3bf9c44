"""Doors: each turns what arrives into events for the engine, and results into its own words."""
