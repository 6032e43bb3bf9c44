"""The tables: each service uses one of them."""

from django.db import models


class Stock(models.Model):
    """How many pieces of a commodity there are."""

    commodity = models.CharField(max_length=40, primary_key=True)
    count = models.IntegerField()


class Order(models.Model):
    """What was bought."""

    commodity = models.CharField(max_length=40)
    count = models.IntegerField()
