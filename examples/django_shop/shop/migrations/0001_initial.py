"""The tables."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Made by `makemigrations`."""

    initial = True
    operations = [  # noqa: RUF012 - as Django writes it
        migrations.CreateModel(
            name="Stock",
            fields=[
                ("commodity", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("count", models.IntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("commodity", models.CharField(max_length=40)),
                ("count", models.IntegerField()),
            ],
        ),
    ]
