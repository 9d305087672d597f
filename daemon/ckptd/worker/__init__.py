"""Programs that run under a Python that has Paddle, each as its own process."""
