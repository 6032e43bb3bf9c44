"""The app of both services."""
