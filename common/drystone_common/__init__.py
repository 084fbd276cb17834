"""What every Drystone process shares: ids, units, errors, settings, logs, metrics, files.

Belongs here: small, pure or nearly pure pieces that at least two packages need.
Does not belong here: anything that knows a protocol, a database, the network or Kubernetes.
Nothing in this package imports another Drystone package.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("drystone")
except PackageNotFoundError:
    # Running from source that was never installed; the number must not look like a release.
    __version__ = "0+source"

__all__ = ["__version__"]
