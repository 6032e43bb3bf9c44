"""The stock service: URLs and views. It takes part in whatever transaction its caller is in."""

import json

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from django_shop.serving import serve


def deduct(request: HttpRequest) -> JsonResponse:
    """Take pieces; 409 if there are not enough."""
    from django_shop.shop.models import Stock  # noqa: PLC0415 - models can be imported once Django is set up

    wanted = json.loads(request.body)
    with transaction.atomic():
        row = Stock.objects.select_for_update().get(pk=wanted["commodity"])
        if row.count < wanted["count"]:
            return JsonResponse({"detail": f"only {row.count} of {row.pk} are left"}, status=409)
        row.count -= wanted["count"]
        row.save()
    return JsonResponse({"status": "ok"})


def show(_: HttpRequest, commodity: str) -> JsonResponse:
    """What is there."""
    from django_shop.shop.models import Stock  # noqa: PLC0415 - models can be imported once Django is set up

    return JsonResponse({"commodity": commodity, "count": Stock.objects.get(pk=commodity).count})


urlpatterns = [path("deduct", deduct), path("stock/<commodity>", show)]

if __name__ == "__main__":
    serve("stock")
