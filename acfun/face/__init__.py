"""Faces in images: finding them, their landmarks, aligned crops and regions; knows no diffusion."""
