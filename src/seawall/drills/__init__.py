"""Rehearsals: load that people would make, on a throwaway instance of the real service.

`load` says who comes when and how often they try again, `outcomes` how it went for them; `generator` is the process
that makes them come, `client` how it speaks S3, `instance` the service they come to.

`rehearsal` puts them together with one of the `faults`, which say what can be broken and what must hold nevertheless
(`hypothesis`); what breaks it stands beside it:
`sessions` of other programs, `burners` of a core, `tcp_proxy`, `replica`, `slow_disk`, `small_disk`. Whatever is
broken is put right again (`undo`).
"""
