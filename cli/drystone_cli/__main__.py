"""`python -m drystone_cli` is `drystone`: how `drystone local` starts its processes."""

from __future__ import annotations

from drystone_cli.main import main

if __name__ == "__main__":
    main()
