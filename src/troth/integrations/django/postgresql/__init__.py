"""The database backend `troth.integrations.django.postgresql`: see `base`."""
