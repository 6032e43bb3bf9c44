"""The client: runs beside your code. It opens and ends global transactions (TM) and holds resources (RM)."""
