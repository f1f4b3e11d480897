"""The compiled step: a graph packed into a plan, and the machine that runs it."""
