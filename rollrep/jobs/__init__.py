"""Jobs: configuration, one pull of one job with its retries, checks."""
