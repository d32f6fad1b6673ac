"""Everything beside the application: the rolling log, its capture, and who reads it out."""
