"""What is applied for a StorageCluster: one small pure function for each object.

Belongs here: functions from a ``Build`` to plain dicts, as they are sent to Kubernetes.
Does not belong here: what is there already, clocks, randomness, HTTP.
"""
