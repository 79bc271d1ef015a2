"""A file whose bytes nobody vouches for is read in a process of its own first.

HDF5's library may loop forever or crash on damaged bytes, and takes the process with it. Run as a script,
this file reads all that readers of a store touch, and prints nothing; how that ends is what counts.
"""

import subprocess
import sys
from pathlib import Path

_SECONDS = 10.0
_BYTES_A_SECOND = 20e6
_GROUPS = ("/", "/graph", "/options", "/options/responses", "/options/bases", "/records")


def survey(path: Path) -> None:
    """Refuses a file on which HDF5's library loops or crashes; what it refuses itself is left to the reader.

    Raises:
        ValueError: it does.
    """
    words = [sys.executable, "-P", __file__, str(path)]
    limit = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    try:
        ended = subprocess.run(words, capture_output=True, timeout=limit, check=False).returncode
    except subprocess.TimeoutExpired:
        raise ValueError(f"HDF5's library did not come to an end with it in {limit:.0f} s") from None
    if ended < 0:
        raise ValueError(f"HDF5's library crashed on it, signal {-ended}")


def _read(path: str) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        dict(file.attrs)
        for group in _GROUPS:
            if group != "/" and not (
                group in file and isinstance(file.get(group, getlink=True), h5py.HardLink)
            ):
                continue
            for name in file[group]:
                item = file[group][name]
                if isinstance(item, h5py.Dataset) and item.nbytes < 2**30:
                    item[()]


if __name__ == "__main__":
    _read(sys.argv[1])
