"""Data sets for research on detection, from the run folders of swaps: written, and proved to be loadable and fair.

Real and fake are treated alike, so that nothing but the swap tells them apart: every fake has the video that it was
made of beside it, of the same frames, size and rate, through the same encoders as often, with a label and a mark of
the same form. People who meet in any swap are in one part of train, validation and test.
"""

from facepipe.datasets.checking import check_dataset
from facepipe.datasets.detecting import Detectability, Detector, detect_fakes, small_detector
from facepipe.datasets.export import FORMATS, Format, export_dataset

__all__ = [
    "FORMATS",
    "Detectability",
    "Detector",
    "Format",
    "check_dataset",
    "detect_fakes",
    "export_dataset",
    "small_detector",
]
