"""ckptd: proves, keeps and releases PaddlePaddle checkpoints."""

__version__ = "0.1.0"
