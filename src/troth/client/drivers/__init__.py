"""Run flows on real connections: the only place of the client's SQL side that does I/O."""
