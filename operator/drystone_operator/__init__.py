"""The Kubernetes operator: turns StorageCluster and its fellows into running Drystone processes.

Belongs here: the custom resources' models, the pure planner, what applies a plan, kopf's wiring.
Does not belong here: anything a volume's data passes through. An operator that is down for an
hour changes nothing for pods; it only reacts to nothing meanwhile.
"""
