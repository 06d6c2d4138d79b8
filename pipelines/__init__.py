"""Diffusers pipelines, one class a file; installed as `acfun.pipelines`."""
