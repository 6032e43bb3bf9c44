"""Ways to reach a coordinator: `link.py` is the seam, `seata.py` the one over Seata's protocol."""
