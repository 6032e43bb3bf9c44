"""`troth demo`: a purchase over three services and three databases, bought or not bought, all or nothing.

Read `stock.py`, `order.py`, `account.py` (the services) and `business.py` (who calls them) first: they are the
example. Each is a process of its own here. The rest shows what happens: `run.py` starts everything and tells the
story.
"""
