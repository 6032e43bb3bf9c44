"""The database backend `troth.integrations.django.sqlite3`: see `base`."""
