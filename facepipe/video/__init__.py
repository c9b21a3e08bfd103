"""Frames in, frames out, audio and exact time.

Convention
    - A frame is RGB, HWC, uint8, turned for display. Its time is a `fractions.Fraction`, its ``pts`` an integer in
      units of the clip's ``time_base``; frames come in order of display with strictly increasing ``pts``.
    - Every frame of a clip has the size of its first one.
    - Colour: the matrix is the one the stream is tagged with; where the tag is missing it is BT.709 from 720 lines
      up and BT.601 below. Range: the tag; where it is missing full for grey and ``yuvj*``, limited else.
    - Transparency: what lies under alpha is composited on black, in stills and in video.
    - Interlaced frames are left as they are. Pixel aspect and HDR transfer are not converted; both are in `warnings`.
"""

from facepipe.video.clips import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Clip, find_clips
from facepipe.video.parts import Cuts, find_cuts, join_parts, split_film
from facepipe.video.planes import read_planes
from facepipe.video.reader import ClipReader, Frame, open_clip, probe, with_pixels
from facepipe.video.source import Limits, read_metadata
from facepipe.video.stills import read_image, read_tags, write_image
from facepipe.video.writer import ClipWriter, open_writer

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Clip",
    "ClipReader",
    "ClipWriter",
    "Cuts",
    "Frame",
    "Limits",
    "find_clips",
    "find_cuts",
    "join_parts",
    "open_clip",
    "open_writer",
    "probe",
    "read_image",
    "read_metadata",
    "read_planes",
    "read_tags",
    "split_film",
    "with_pixels",
    "write_image",
]
