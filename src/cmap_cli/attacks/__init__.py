"""Attacks on modules that map images in [0, 1] to scores."""
