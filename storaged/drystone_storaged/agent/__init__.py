"""What server, beacon and block daemon share: identity, control channel, map feed, start and stop.

Belongs here: how a process of a node talks to the manager and to the native side's event file.
Does not belong here: what one of them decides.
"""
