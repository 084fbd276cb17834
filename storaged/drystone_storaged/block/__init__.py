"""The process of a consuming node: attaches volumes and turns them into devices.

Belongs here: the life of an attachment around the native sequencer, from the manager's record to
the device, over restarts of this process.
Does not belong here: anything on the path of a read or a write, and kernel interfaces (`attach/`).
"""
