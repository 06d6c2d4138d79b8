"""Batches of photographs on Ray: what is there, what is left to do, who paints it, and what became of it.

Only `acfun.batch.cluster` knows Ray; the other modules run without it.
"""
