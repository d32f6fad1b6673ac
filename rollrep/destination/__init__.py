"""The destination: archive, mirror, snapshots, and the way back to a moment."""
