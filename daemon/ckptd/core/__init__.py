"""The pure part: decisions as functions over values. No file, clock, environment or log."""
