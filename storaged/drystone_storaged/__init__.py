"""The storage daemons: manager, server, beacon, block, and `local`, which runs them on one machine.

Python here starts, configures, controls and reports. User data moves in native threads
(`drystone_native`) that never call back into Python.
"""
