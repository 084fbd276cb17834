"""`drystone recover metadata`: acts in the place of a manager, while none runs.

A command run by a person; no loop of the manager imports this. What is decided is decided in
``cluster.recovery``.
"""
