"""REST `/v1`: a thin router; every rule is in ``cluster`` or in the manager's services."""
