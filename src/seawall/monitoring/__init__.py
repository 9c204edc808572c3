"""What follows from what the service says of itself: objectives, alerts, diagnosis, and what is done about it.

It decides from points (`telemetry.points`), which are there while the database is not.
"""
