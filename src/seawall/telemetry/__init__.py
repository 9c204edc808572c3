"""What the service says about itself: metrics, log events, the request log, the link to the keeper.

Everything may tell it something; it knows nothing of whoever does.
"""
