"""The database backend `troth.integrations.django.mysql`: see `base`."""
