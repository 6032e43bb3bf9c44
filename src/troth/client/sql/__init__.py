"""What AT knows of SQL: statements, tables, images, undo logs, lock keys. Pure: no I/O, clock or chance."""
