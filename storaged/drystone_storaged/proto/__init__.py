"""Generated from the definitions in the top-level `proto` folder: the internal control API."""
