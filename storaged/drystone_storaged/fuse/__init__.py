"""`drystone fuse-helper`: holds the FUSE processes of a node apart from its block daemon.

Belongs here: the socket, who may ask on it, one call a volume at a time, the stop that waits.
Does not belong here: how a device is made (`attach/fuse.py`), and anything about volumes.
"""
