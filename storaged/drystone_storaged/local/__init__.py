"""A whole cluster on one machine: every process a child of its own session, everything in a folder.

Belongs here: which processes there are, their settings, start, health, stop, removal.
Does not belong here: what those processes do.
"""
