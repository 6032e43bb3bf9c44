"""Crash points: named moments at which a real process kills itself (docs/recovery.md).

They attach from outside to named seams of the running program; what is shipped knows nothing of them.
"""
