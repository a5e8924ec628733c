"""Attacks on anything that maps images in [0, 1] to scores."""
