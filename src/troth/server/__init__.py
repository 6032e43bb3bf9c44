"""The coordinator process: doors, sessions, engine, and the one place (app) that puts them together."""
