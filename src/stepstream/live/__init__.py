"""From samples to answers: windowings, streams and their snapshots."""
