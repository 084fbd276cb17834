"""Scans: what the drives of a node say, read while its server is stopped, and the file of it.

Run by a person; no daemon imports this. A recovery of the metadata store begins with them.
"""
