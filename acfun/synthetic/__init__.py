"""Endless labelled faces and exact (photo, stylized) pairs, made from licensed portraits without any diffusion model."""
