"""Apache Seata's binary protocol without I/O: frames of version 0 and 1, every message type, both directions."""
