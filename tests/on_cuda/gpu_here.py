"""Exit code 0 if the driver of NVIDIA finds a GPU; else 1, and one line with the reason. Standard library only."""

import ctypes
import sys


def reason():
    """Why no GPU can be used; None if one can."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        return f"the driver of NVIDIA cannot be loaded ({error})"
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if failed:
        return f"the driver of NVIDIA reports error {failed}"
    return None if count.value else "the driver of NVIDIA finds no device"


if __name__ == "__main__":
    sys.exit(f"no GPU to run on: {found}" if (found := reason()) else 0)
