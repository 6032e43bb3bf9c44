"""One project for both services: what differs comes from the environment."""

import os

SECRET_KEY = "for the example only"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django_shop.shop"]
MIDDLEWARE = ["troth.integrations.django.middleware.troth_middleware"]
ROOT_URLCONF = os.environ.get("URLS", "django_shop.stock")
DATABASES = {
    "default": {
        "ENGINE": "troth.integrations.django.sqlite3",  # or …django.postgresql, …django.mysql
        "NAME": os.environ.get("DATABASE", "shop.db"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["console"], "level": "ERROR"}},
}
