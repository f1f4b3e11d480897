"""The step graph: our intermediate representation of a sequence model."""
