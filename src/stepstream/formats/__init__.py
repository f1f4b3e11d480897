"""Model files to graphs, one module per format, the same verb `read`."""
