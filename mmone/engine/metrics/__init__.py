"""Metrics that the libraries have not."""
