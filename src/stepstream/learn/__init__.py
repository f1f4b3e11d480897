"""Models that are made for streams: train, evaluate, calibrate, decide."""
