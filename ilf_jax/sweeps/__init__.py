"""Sweeps: many runs from one file, run in sequence or in parallel, with one table and one set of figures."""
