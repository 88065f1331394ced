"""Loaded models, and how requests share them."""
