"""Training one run: engine, loop, evaluation, and the record that comes out."""
