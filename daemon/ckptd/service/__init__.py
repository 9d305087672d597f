"""The daemon around the reconciler: threads, signals, reload, and when to look at what."""
