"""Rehearsals: load that people would make, on a throwaway instance of the real service.

`load` says who comes when and how often they try again, `outcomes` how it went for them; `generator` is the process
that makes them come, `client` how it speaks S3, `instance` the service they come to.
"""
