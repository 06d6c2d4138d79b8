"""How good a stylization is: feature extractors and metrics."""
