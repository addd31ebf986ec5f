"""The thin layer that runs the core on Ray: the only part of the package that imports ray."""
