"""The process of a storage node: opens drives, follows the map, carries out the manager's commands.

Belongs here: what happens around the native threads that serve the drives.
Does not belong here: anything on the path of a read or a write, and any decision about members.
"""
