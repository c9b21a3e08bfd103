"""The machine and the versions that figures belong to, in three lines."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    *("facepipe", "torch", "opencv-python", "numpy", "av"),
    *("facenet-pytorch", "dlib-bin", "scikit-image", "scipy", "torchmetrics"),
)


def processor() -> str:
    """Its name, as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def library(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} missing"


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{processor()}, {cores} core(s){busy}")
    print(f"{platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(", ".join(library(name) for name in LIBRARIES))


if __name__ == "__main__":
    main()
