"""What differs from database to database. One module each."""
