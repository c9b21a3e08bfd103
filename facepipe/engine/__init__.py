"""The same work on several workers: each loads its nets once and does one clip after the other.

`LocalPool` has processes of this machine, `RayPool` actors of a Ray cluster. Both give the same replies in the same
order, and do a unit once more, alone, when its worker died.
"""

from facepipe.engine.cluster import RayPool
from facepipe.engine.pool import Died, Do, Pool, Tell, cores, fitting, gpus
from facepipe.engine.processes import LocalPool

__all__ = ["Died", "Do", "LocalPool", "Pool", "RayPool", "Tell", "cores", "fitting", "gpus"]
