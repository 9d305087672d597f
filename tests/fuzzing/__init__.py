"""Damages real checkpoints and compares our judgement with Paddle's: `make fuzz`, see docs/validation.md.

`paddle_writers` and `paddle_oracle` are programs that run under Paddle, each as its own process.
"""
