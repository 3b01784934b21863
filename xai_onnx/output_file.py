"""Output files that are whole or absent: written beside their place, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xai_onnx.errors import OutputFileError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder, renamed to `path` if the block succeeds.

    Whatever was at `path` stays untouched until then; the temporary file never stays behind.

    Raises:
        OutputFileError: the folder doesn't exist or can't be written, or `path` is a folder or a
            device.
    """
    final = Path(path)
    if final.exists() and not final.is_file():  # renaming onto /dev/null would replace the device
        raise OutputFileError(f"{final}: is a folder or a device; give a file name")
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{final.stem}.", suffix=final.suffix, dir=final.parent
        )
    except OSError as error:
        reason = error.strerror or error
        raise OutputFileError(
            f"{final}: can't write in {final.parent}/: {reason}; give another place"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(final)
    except OSError as error:
        reason = error.strerror or error
        raise OutputFileError(f"{final}: can't be written: {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)
