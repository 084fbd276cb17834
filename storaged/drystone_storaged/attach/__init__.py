"""Attachers: turn the NBD export of a volume into a block device of this machine.

Belongs here: kernel interfaces (generic netlink, FUSE, loop) and the tools that drive them.
Does not belong here: what a volume is, who may attach it, and the data itself.
"""
