"""Endless labelled faces: morphs of licensed people, procedural renderings in known styles, captions, shards."""
