"""The app."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Found by its package."""

    name = "django_shop.shop"
