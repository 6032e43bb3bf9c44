"""How a service starts: the undo table, the coordinator, the migrations, then Django's development server."""

import os

import django
from django.core.management import call_command

import troth


def serve(name: str) -> None:
    """Serve the URLs of `django_shop.NAME`."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "django_shop.settings"
    os.environ["URLS"] = f"django_shop.{name}"
    django.setup()
    troth.at.init(f"sqlite:///{os.environ['DATABASE']}")
    with troth.init(coordinator=os.environ["COORDINATOR"], application=name):
        call_command("migrate", verbosity=0)
        if name == "stock":
            from django_shop.shop.models import Stock  # noqa: PLC0415 - models can be imported once Django is set up

            Stock.objects.update_or_create(commodity="C00321", defaults={"count": 100})
        call_command("runserver", f"127.0.0.1:{os.environ['PORT']}", use_reloader=False, verbosity=0)
