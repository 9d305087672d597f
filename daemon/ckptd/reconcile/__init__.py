"""Brings what is on disk and what the configuration wants together, one run at a time.

Everything starts from a fresh listing; hints, memory and the ledger only save work. The order within a run is
fixed: judge, release, remove. So nothing is removed that a release is about to be made from.
"""
