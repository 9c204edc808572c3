"""What went wrong, remembered: incidents that open, fill and close themselves, and the post-mortem drafted from them.

They are files first: what is remembered about a database that is down is not kept inside it.
"""
