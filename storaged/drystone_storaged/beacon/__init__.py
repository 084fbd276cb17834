"""The beacon of a storage node as a process of its own: heartbeats, votes, the server's read lease.

Belongs here: what happens around the native thread that hears the other beacons.
Does not belong here: any decision about members, and anything that a drive answers.
"""
