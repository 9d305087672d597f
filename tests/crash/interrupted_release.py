"""Publishes the proven model, or cleans up, and dies right before the n-th change of the disk.

Run as `interrupted_release.py DEPLOY_DIR VERSION publish|clean_up N`; exits with 99 where it died.
"""

import os
import sys

from ckptd.shell import durable
from ckptd.shell.publishing import clean_up
from releasing import better_job, proven, publish

CHANGES = ("fchmod", "fsync", "mkdir", "rename", "rmdir", "symlink", "unlink", "write")


def make_deadly(module, name, left):
    """Let the call that uses up what is left be the process's end."""
    call = getattr(module, name)

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os._exit(99)
        return call(*args, **kwargs)

    setattr(module, name, counted)


deploy_dir, version, what, number = sys.argv[1:]
job = better_job(deploy_dir)
exported = proven(job, version)
left = [int(number)]
for change in CHANGES:
    make_deadly(os, change, left)
make_deadly(durable, "_renameat2", left)
if what == "publish":
    publish(job, version, exported)
else:
    clean_up(deploy_dir)
