"""The invisible mark in a swapped face: a number that outlives encoding, resizing and cropping.

A public spread-spectrum pattern (Cox et al. 1997, DOI 10.1109/83.650120) lies in the face's own square, which
landmarks give, so that it moves, grows and turns with the face, and the reader needs neither the original nor the run
folder. Its strength follows the face's own detail, which hides it. It swings six times a second: what a face is at
rest cancels out when the reader sums up frames, and what is left of moves is little at that pace (a spread spectrum
over time as well). It is no secret: whoever knows it can remove it, or put it elsewhere.
"""

from facepipe.watermark.embedding import Mark, payload_of
from facepipe.watermark.reading import FoundMark, MarkReader, read_mark
from facepipe.watermark.verifying import verify

__all__ = ["FoundMark", "Mark", "MarkReader", "payload_of", "read_mark", "verify"]
