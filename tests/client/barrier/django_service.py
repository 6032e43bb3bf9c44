"""A Django project of one file, run as a program: its views stand behind the barrier. Prints what it saw as JSON.

Arguments: the URL of a database whose barrier table is made.
"""

from __future__ import annotations

import json
import sys
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

import troth.dtm
from troth.integrations.django.dtm import check_back, guarded


def database(url: str) -> dict[str, object]:
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": parts.path[1:]}
    engine = {"postgresql": "django.db.backends.postgresql", "mysql": "troth.integrations.django.mysql"}[parts.scheme]
    place = {"USER": parts.username, "PASSWORD": parts.password, "HOST": parts.hostname, "PORT": parts.port}
    return {"ENGINE": engine, "NAME": parts.path[1:], **place}


settings.configure(
    DATABASES={"default": database(sys.argv[1])},
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    MIDDLEWARE=["troth.integrations.django.dtm.dtm_middleware"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    LOGGING_CONFIG=None,
)
django.setup()


class Account(models.Model):
    balance = models.IntegerField()

    class Meta:
        app_label = "bank"
        db_table = "django_account"


def take(request: HttpRequest) -> HttpResponse:
    with guarded() as first:
        if first:
            Account.objects.filter(id=1).update(balance=models.F("balance") - 30)
            if "fail" in request.GET:
                raise KeyError("after the update")
            if "refuse" in request.GET:
                raise troth.dtm.BranchRefused("not today")
    return HttpResponse("done")


def inside(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), guarded() as first:
        return HttpResponse(str(bool(first)))


def unasked(request: HttpRequest) -> HttpResponse:
    with guarded():
        Account.objects.filter(id=1).update(balance=0)
    return HttpResponse("done")


urlpatterns = [path("take", take), path("inside", inside), path("unasked", unasked), path("check-back", check_back)]


def main() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Account)
    Account.objects.create(id=1, balance=100)
    client = Client(raise_request_exception=False)

    def call(path: str, gid: str, op: str, **more: str) -> int:
        query = {"gid": gid, "branch_id": "01", "op": op, "trans_type": "tcc", **more}
        return int(client.get(path, query).status_code)

    seen = {
        "twice": [call("/take", "a", "try"), call("/take", "a", "try")],
        "cancelled": [call("/take", "a", "cancel"), call("/take", "a", "try")],
        "empty": [call("/take", "b", "cancel"), call("/take", "b", "try")],
        "failed": [call("/take", "c", "try", fail="1"), call("/take", "c", "try")],
        "refused": call("/take", "d", "try", refuse="1"),
        "no call": client.get("/take").status_code,
        "too long": call("/take", "x" * 200, "try"),
        "inside": call("/inside", "e", "try"),
        "unasked": call("/unasked", "f", "try"),
        "message": [call("/take", "m", "confirm")],
    }
    with guarded(barrier=troth.dtm.message_barrier("m")) as first:
        assert first
    seen["check-back"] = [client.get("/check-back", {"gid": gid}).status_code for gid in ("m", "n")]
    seen["balance"] = Account.objects.get().balance
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
