"""Where an engine keeps what must survive it: one protocol, and a module for each kind of store."""
