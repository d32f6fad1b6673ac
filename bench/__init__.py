"""What rollrep costs and carries, measured beside its peers.  Nothing here is a test: see README.md."""
