"""The CSI driver: identity, controller and node services over the management API.

Belongs here: CSI's vocabulary, idempotence of its calls, mounts and formats on the node.
Does not belong here: placement, replication or any state: a restart loses nothing.
"""
