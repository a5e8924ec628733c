"""cmap: purify adversarial images with a consistency model, and measure honestly what it buys.

The method of "Adversarial Purification by Consistency-aware Latent Space Optimization on Data Manifolds"
(arXiv 2412.08394) is in :mod:`cmap_cli.core`; models are loaded by :mod:`cmap_cli.models.zoo`.
"""

__version__ = "0.1.0"
