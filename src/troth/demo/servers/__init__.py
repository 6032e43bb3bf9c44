"""Private database servers for the demo and the tests: in a temporary directory, on a free loopback port, always ended.

A server is started, watched and ended by a process of its own, the *sitter* (`sitter.py`), which ends it when the
process that asked for it is gone, however that came. Services of the machine are never touched.
"""
