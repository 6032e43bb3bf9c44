"""Django on AT: database backends, and a middleware that lets requests join their caller's transaction.

```python
# settings.py
DATABASES = {"default": {"ENGINE": "troth.integrations.django.postgresql", "NAME": "shop", …}}
MIDDLEWARE = ["troth.integrations.django.middleware.troth_middleware", …]      # the first one
```
`ENGINE` is `troth.integrations.django.` and `postgresql` (psycopg 3), `mysql` (PyMySQL; MariaDB too) or `sqlite3`. All
else in `DATABASES` is as for Django's own backends, which these inherit from. The process begins with `troth.init`,
in `AppConfig.ready` or in `wsgi.py`.

Outside of a global transaction everything is Django's own. Inside one each `atomic` block (in autocommit each
statement) is a branch. Run migrations outside.
"""
