"""DTM's messages: requests, results, branches by URL. Pure; both doors and the outgoing calls use them."""
