"""A command line in this process."""

import contextlib
import io
import os
import subprocess
import sys

import bluemask


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """What `bluemask WORDS` prints and returns, without a process of its own."""
    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, os.environ.get("COLUMNS"))
    sys.argv, os.environ["COLUMNS"] = ["bluemask", *words], "200"
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            bluemask.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before[0]
        os.environ.pop("COLUMNS")
        if before[1] is not None:
            os.environ["COLUMNS"] = before[1]
    return subprocess.CompletedProcess(["bluemask", *words], code, out.getvalue(), err.getvalue())
