"""The programs people run: `drystone`, and later `kubectl-drystone`.

Belongs here: command lines, tables, progress, exit codes. Does not belong here: decisions.
A command calls the management API or starts a daemon; what it does is decided there.
"""
