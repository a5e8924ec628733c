"""The choices that options offer, each defined once; free of imports, so that ``cmap --help`` is quick."""

from __future__ import annotations

from typing import Literal

Preset = Literal["fast", "balanced", "paper", "paper-imagenet100"]
Perceptual = Literal["ssim", "lpips", "both"]
LpipsTrunk = Literal["vgg", "alex", "squeeze"]
Select = Literal["best", "mean", "medoid", "vote"]
Vote = Literal["soft", "hard"]
Schedule = Literal["constant", "cosine"]
Start = Literal["prior", "inverse"]
Method = Literal["optimise", "denoise"]
Fit = Literal["auto", "tile", "resize", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ImageFormat = Literal["auto", "png", "webp", "tiff", "bmp", "jpeg", "npy", "npz", "safetensors"]
Norm = Literal["Linf", "L2", "L1"]
Access = Literal["transfer", "surrogate", "bpda", "white-box", "adaptive", "black-box"]
Protocol = Literal["end-to-end", "paper"]
FailOn = Literal["estimate", "interval"]
Split = Literal["subset", "test", "train"]
ModelKind = Literal["gaussian", "unet", "photo", "classifier"]
Optimiser = Literal["adam", "muon"]
LossWeight = Literal["edm", "min-snr", "plain"]
Preconditioning = Literal["gaussian", "plain"]
Procedure = Literal["cohen", "sequential"]
Denoiser = Literal["auto", "posterior-mean", "consistency", "none"]
Tuning = Literal["consistency", "trajectory"]
TrainingPreset = Literal["bundled", "accelerator"]

AUTO_MODEL = "auto"
SMALL_MODEL = "cifar10-unet"
"""Of "auto", for pictures of its size."""
PHOTO_MODEL = "photo-unet"
"""Of "auto", for all other pictures."""
DEFAULT_MODEL = AUTO_MODEL
DEFAULT_CLASSIFIER = "pyautoattack-resnet18"
DEFAULT_PRESET: Preset = "balanced"
DEFAULT_SELECT: Select = "mean"
