"""The orders service: it begins the global transaction, writes the order, and calls the stock service."""

import json
import os

import httpx
from django.http import HttpRequest, JsonResponse
from django.urls import path

import troth
from django_shop.serving import serve
from troth.integrations.httpx import install

# Django's development server, like many others, drops header names with an underscore: TX-XID in the place of TX_XID.
stock = install(httpx.Client(base_url=os.environ["STOCK"], timeout=30), header="TX-XID")


class Refused(Exception):
    """The customer gets this answer, and nothing is bought."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def orders(request: HttpRequest) -> JsonResponse:
    """GET: all orders. POST: buy; an exception undoes what both services have committed."""
    from django_shop.shop.models import Order  # noqa: PLC0415 - models can be imported once Django is set up

    if request.method == "GET":
        return JsonResponse({"orders": list(Order.objects.order_by("id").values("commodity", "count"))})
    try:
        buy(**json.loads(request.body))
    except Refused as refused:
        return JsonResponse({"detail": str(refused)}, status=refused.status)
    return JsonResponse({"status": "ok"})


@troth.global_transaction(name="buy")
def buy(commodity: str, count: int, *, paid: bool) -> None:
    """One global transaction. Without `atomic`, each statement is a branch."""
    from django_shop.shop.models import Order  # noqa: PLC0415 - models can be imported once Django is set up

    Order.objects.create(commodity=commodity, count=count)
    answer = stock.post("/deduct", json={"commodity": commodity, "count": count})
    if answer.is_error:
        raise Refused(answer.status_code, answer.json()["detail"])
    if not paid:
        raise Refused(402, "the payment was refused")


urlpatterns = [path("orders", orders)]

if __name__ == "__main__":
    serve("orders")
