"""`python -m troth` is `troth`."""

from troth.cli.main import app

app(prog_name="troth")
