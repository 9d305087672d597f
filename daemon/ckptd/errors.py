"""Errors that a user may meet. Each is printed as it is, without a traceback, and sets the exit code."""

from __future__ import annotations


class CkptdError(Exception):
    """Could not be done: I/O, permission, a lock that is held."""

    exit_code = 3


class UsageError(CkptdError):
    """The command line or the configuration is wrong; nothing was done."""

    exit_code = 2


class Refused(CkptdError):  # noqa: N818 - a refusal is an outcome, not a failure
    """What was asked would break a promise: *refusing to* …, and the way out."""

    exit_code = 1
